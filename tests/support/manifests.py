"""The manifests of configs/kuberay, built as `kubectl apply -k` does."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = tuple(sorted(path.parent.name for path in ROOT.glob("configs/kuberay/overlays/*/kustomization.yaml")))
# The oldest version of Kubernetes whose schemas the manifests have to meet, and a new one.
KUBERNETES = ("1.30", "1.37")

_RAY_SERVICE = json.loads((Path(__file__).parent / "schemas" / "rayservice.json").read_text())


@cache
def build(overlay: str) -> tuple[dict[str, Any], ...]:
    """All objects of an overlay. Callers must not change them. `make test` sees to a program for it."""
    return kustomized(ROOT / "configs" / "kuberay" / "overlays" / overlay)


def kustomized(folder: Path) -> tuple[dict[str, Any], ...]:
    """All objects that `kubectl apply -k` would apply."""
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def validate(manifest: dict[str, Any]) -> None:
    """Check an object against the schemas of Kubernetes and, for a RayService, of KubeRay. An unknown field is an error."""
    if manifest["kind"] != "RayService":
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    jsonschema.validate(manifest, _RAY_SERVICE)
    for template in ray_templates(manifest).values():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": template}
        for version in KUBERNETES:
            kubernetes_validate.validate(pod, version, strict=True)


def ray_templates(ray_service: dict[str, Any]) -> dict[str, Any]:
    """The pod templates of a RayService by the name of their group; the head's is `head`."""
    cluster = ray_service["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}

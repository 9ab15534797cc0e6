"""The manifests for KubeRay, checked without a cluster."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve_app.cli.serve import RAY_ENVIRONMENT
from serve_app.settings import PaddleOcrVlSettings, ReplicaRange, Secrets, Settings
from serve_app.settings.engines import VLLM_COMMAND
from tests.support.documentation import code_blocks
from tests.support.manifests import OVERLAYS, ROOT, build, kustomized, ray_templates, validate
from tests.support.monitoring import ALERTS

INSTALL = (ROOT / "docs" / "install.md").read_text()
SERVE_CONFIG = ROOT / "serve_config.yaml"
S3 = {"kind": "s3", "bucket": "my-bucket", "prefix": "ocr", "endpoint_url": "https://s3.example.com"}
# In what the Serve config of each overlay differs from serve_config.yaml. None: it is not there.
DIFFERENCES: dict[str, dict[str, Any]] = {
    "cpu": {"args.engines.paddleocr-vl": None, "deployments.Recognizer-paddleocr-vl": None},
    "gpu": {"args.engines.paddleocr-vl.replicas": 1},
    "gpu-pool": {
        "args.engines.paddleocr-vl.num_gpus": 0.2,
        "args.engines.paddleocr-vl.replicas.max": 10,
        "args.engines.paddleocr-vl.vlm": {"backend": "vllm-server", "url": "http://vlm:8118/v1", "concurrency": 400},
    },
}
EVERYWHERE = {"args.cpu_nodes": "cpu_work", "args.store": S3}


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in build(overlay) if manifest["kind"] == kind]


def ray_service(overlay: str) -> dict[str, Any]:
    (manifest,) = of_kind(overlay, "RayService")
    return manifest


def serve_config(overlay: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])
    return config


def settings(overlay: str) -> Settings:
    (application,) = serve_config(overlay)["applications"]
    return Settings.model_validate(application["args"])


def pods(overlay: str) -> dict[str, Any]:
    """All pod templates by name."""
    others = {
        manifest["metadata"]["name"]: manifest["spec"]["template"] for manifest in of_kind(overlay, "StatefulSet")
    }
    return {**ray_templates(ray_service(overlay)), **others}


def container(template: dict[str, Any]) -> dict[str, Any]:
    (only,) = template["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def matching(selector: dict[str, Any], overlay: str) -> set[str]:
    """Names of the pods that a selector finds."""
    wanted = {key: {value} for key, value in selector.get("matchLabels", {}).items()}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        wanted[expression["key"]] = set(expression["values"])
    assert wanted, "an empty selector finds every pod of the namespace"
    return {
        name
        for name, template in pods(overlay).items()
        if all(template["metadata"]["labels"].get(key) in values for key, values in wanted.items())
    }


def changed(config: dict[str, Any], differences: dict[str, Any]) -> dict[str, Any]:
    """The config with these values. A part of a path is a key, or the name of an item."""
    result = copy.deepcopy(config)
    for path, value in differences.items():
        *parents, last = path.split(".")
        place: Any = result["applications"][0]
        for part in parents:
            place = next(item for item in place if item["name"] == part) if isinstance(place, list) else place[part]
        if value is not None:
            place[last] = value
        elif isinstance(place, list):
            place[:] = [item for item in place if item["name"] != last]
        else:
            del place[last]
    return result


def test_each_overlay_has_its_differences_named() -> None:
    assert set(OVERLAYS) == DIFFERENCES.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_meets_the_schemas(overlay: str) -> None:
    assert len(build(overlay)) >= 7
    for manifest in build(overlay):
        validate(manifest)


def test_a_field_that_does_not_exist_is_found() -> None:
    for path in (
        ("spec",),
        ("spec", "rayClusterConfig"),
        ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec"),
    ):
        manifest = copy.deepcopy(ray_service("cpu"))
        place = manifest
        for part in path:
            place = place[part]
        place["unknown"] = True
        with pytest.raises(jsonschema.ValidationError):
            validate(manifest)
    policy = copy.deepcopy(of_kind("cpu", "NetworkPolicy")[0])
    policy["spec"]["unknown"] = True
    with pytest.raises(jsonschema.ValidationError):
        validate(policy)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_serve_config_is_that_of_the_repository_but_for_the_named_differences(overlay: str) -> None:
    whole = yaml.safe_load(SERVE_CONFIG.read_text())
    assert serve_config(overlay) == changed(whole, EVERYWHERE | DIFFERENCES[overlay])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_versions_are_those_of_the_project(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {container(template)["image"] for template in ray_templates(ray_service(overlay)).values()}
    assert {image.rpartition(":")[2] for image in images} == {version}
    ray = ray_service(overlay)["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"\nray=={ray}\n" in (ROOT / "requirements" / "serve.txt").read_text()
    # Every image of others has a version too.
    assert all(re.search(r":v?\d", container(template)["image"]) for template in pods(overlay).values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_has_no_work_and_every_engine_has_room(overlay: str) -> None:
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    nodes = settings(overlay).cpu_nodes
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    # Ray drops the outer quotes and reads the rest as JSON.
    resources = {name: yaml.safe_load(group["rayStartParams"].get("resources", "''")) for name, group in groups.items()}
    assert resources.pop("cpu") == f'{{"{nodes}": 1}}'
    assert not any(resources.values())
    for engine in settings(overlay).engines:
        group = groups["gpu" if engine.gpus else "cpu"]
        limits = container(group["template"])["resources"]["limits"]
        of_a_node = int(limits["cpu"]) // engine.num_cpus
        if engine.gpus:
            of_a_node = min(of_a_node, int(limits["nvidia.com/gpu"]) / engine.gpus)
        most = engine.replicas.max if isinstance(engine.replicas, ReplicaRange) else engine.replicas
        assert most is not None and most <= of_a_node * group["maxReplicas"], engine.name
        assert engine.least_replicas <= of_a_node * group["minReplicas"], engine.name
    copies = (settings(overlay).ingress_replicas, settings(overlay).jobs.replicas)
    assert all(2 <= number <= groups["cpu"]["minReplicas"] for number in copies), "each on a node of its own"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_probes_that_its_image_can_answer(overlay: str) -> None:
    serving = serve_config(overlay)["http_options"]["port"]
    for name, template in pods(overlay).items():
        only = container(template)
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            if name == "redis":
                assert only[probe]["exec"]["command"][0] == "sh"
                continue
            request = only[probe]["httpGet"]
            assert request["port"] in ports or request["port"] == 52365, "Ray's agent listens on 52365"
        if name in ("head", "cpu", "gpu"):
            assert ports["serve"] == serving, "KubeRay takes the port of its service from here"
        if name in ("cpu", "gpu"):
            assert only["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "serve"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_runs_as_root_or_gains_rights(overlay: str) -> None:
    for name, template in pods(overlay).items():
        assert template["spec"]["enableServiceLinks"] is False, name
        assert container(template)["securityContext"]["allowPrivilegeEscalation"] is False
        assert container(template)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        if name != "vlm":  # vLLM's image runs as root
            assert template["spec"]["securityContext"]["runAsNonRoot"] is True, name
        # Ray's autoscaler, in the head's pod, asks Kubernetes for nodes.
        assert template["spec"].get("automountServiceAccountToken", True) is (name == "head")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_to_the_outside_only_the_port_of_the_proxy_is_open(overlay: str) -> None:
    serving = serve_config(overlay)["http_options"]["port"]
    covered: set[str] = set()
    for policy in of_kind(overlay, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        found = matching(policy["spec"]["podSelector"], overlay)
        assert found and not found & covered
        covered |= found
        for rule in policy["spec"]["ingress"]:
            sources = rule.get("from")
            if sources is None:
                assert rule["ports"] == [{"protocol": "TCP", "port": serving}]
                assert found == ray_templates(ray_service(overlay)).keys()
                continue
            for source in sources:
                if "namespaceSelector" in source:
                    assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
                    assert {port["port"] for port in rule["ports"]} == {8265, serving}
                else:
                    assert matching(source["podSelector"], overlay)
    assert covered == pods(overlay).keys(), "a pod without a policy is open"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_and_budgets_find_their_pods(overlay: str) -> None:
    budgets = {
        name
        for budget in of_kind(overlay, "PodDisruptionBudget")
        for name in matching(budget["spec"]["selector"], overlay)
    }
    assert budgets == {"cpu"} | ({"vlm"} if overlay == "gpu-pool" else set())
    for service in of_kind(overlay, "Service"):
        (name,) = matching({"matchLabels": service["spec"]["selector"]}, overlay)
        ports = {port["name"] for port in container(pods(overlay)[name])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    addresses = {
        f"{service['metadata']['name']}:{port['port']}"
        for service in of_kind(overlay, "Service")
        for port in service["spec"]["ports"]
    }
    assert ray_service(overlay)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] in addresses
    for engine in settings(overlay).engines:
        if isinstance(engine, PaddleOcrVlSettings) and engine.vlm.backend != "native":
            assert engine.vlm.url is not None and engine.vlm.url.split("/")[2] in addresses


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_node_has_the_environment_and_the_secrets(overlay: str) -> None:
    (environment,) = of_kind(overlay, "ConfigMap")
    # Ray's variables are those of `make serve`; HAProxy comes on top.
    assert environment["data"].items() <= {**RAY_ENVIRONMENT, "RAY_SERVE_ENABLE_HA_PROXY": "1"}.items()
    expected = [{"configMapRef": {"name": environment["metadata"]["name"]}}, {"secretRef": {"name": "ocr-secrets"}}]
    for name, template in ray_templates(ray_service(overlay)).items():
        assert container(template)["envFrom"] == expected, name
        assert "env" not in container(template)
    assert ray_service(overlay)["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_secrets_are_those_that_the_documentation_makes(overlay: str) -> None:
    shell = "".join(code for language, code in code_blocks(INSTALL) if language == "bash")
    commands = re.findall(r"create secret generic (\S+) (.+)", shell.replace("\\\n", ""))
    made = {name: set(re.findall(r"--from-literal=(\w+)=", options)) for name, options in commands}
    assert made["ocr-secrets"] < {f"OCR_{name.upper()}" for name in Secrets.model_fields}
    text = yaml.safe_dump(build(overlay))
    keys = re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: (\S+)", text)
    assert keys and all(key in made[name] for key, name in keys)
    assert set(re.findall(r"secretRef:\s+name: (\S+)", text)) <= made.keys()
    assert f"| `{overlay}` |" in INSTALL


def test_prometheus_gets_to_each_node_with_the_component_for_it(tmp_path: Path) -> None:
    kuberay = os.path.relpath(ROOT / "configs" / "kuberay", tmp_path)
    added = {"resources": [f"{kuberay}/overlays/gpu-pool"], "components": [f"{kuberay}/components/monitoring"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(added))
    manifests = kustomized(tmp_path)
    assert len(manifests) == len(build("gpu-pool")) + 2
    nodes = ray_templates(ray_service("gpu-pool"))
    (monitor,) = [each for each in manifests if each["kind"] == "PodMonitor"]
    assert matching(monitor["spec"]["selector"], "gpu-pool") == nodes.keys()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {
        port["containerPort"]
        for each in nodes.values()
        for port in container(each)["ports"]
        if port["name"] == endpoint["port"]
    }
    (policy,) = [each for each in manifests if each["metadata"]["name"] == "ocr-metrics"]
    validate(policy)
    assert matching(policy["spec"]["podSelector"], "gpu-pool") == nodes.keys()
    (rule,) = policy["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == ports
    for overlay in OVERLAYS:
        text = (ROOT / "configs" / "kuberay" / "overlays" / overlay / "kustomization.yaml").read_text()
        uncommented = yaml.safe_load(re.sub(r"^# ?(components:|  - )", r"\1", text, flags=re.MULTILINE))
        assert "../../components/monitoring" in uncommented["components"]


def test_the_documented_command_makes_rules_of_the_alerts(tmp_path: Path) -> None:
    (command,) = [code for _, code in code_blocks(INSTALL) if "PrometheusRule" in code]
    made = subprocess.run(
        ["bash", "-c", command.replace("kubectl -n ocr apply -f -", "cat")],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    rules = yaml.safe_load(made.stdout)
    assert (rules["kind"], rules["spec"]) == ("PrometheusRule", yaml.safe_load(ALERTS.read_text()))


def test_the_inference_server_is_started_as_the_service_would_start_it() -> None:
    server = container(pods("gpu-pool")["vlm"])
    expected = list(VLLM_COMMAND)
    for option, value in {"--host": "0.0.0.0", "--port": "8118", "--gpu-memory-utilization": "0.9"}.items():
        expected[expected.index(option) + 1] = value
    assert server["command"] == expected
    (key,) = [variable for variable in server["env"] if variable["name"] == "VLLM_API_KEY"]
    assert key["valueFrom"]["secretKeyRef"] == {"name": "ocr-secrets", "key": "OCR_VLM_API_KEY"}
    engine = settings("gpu-pool").engines[0]
    assert isinstance(engine, PaddleOcrVlSettings) and engine.vlm.backend != "native"
    (servers,) = [
        manifest["spec"]["replicas"]
        for manifest in of_kind("gpu-pool", "StatefulSet")
        if manifest["metadata"]["name"] == "vlm"
    ]
    assert engine.vlm.concurrency == 200 * servers

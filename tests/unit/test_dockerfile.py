"""The Dockerfile: what can be checked without building it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
MAKEFILE = (ROOT / "Makefile").read_text()


def stages() -> dict[str, str]:
    """The text of each stage by its name, in order."""
    parts = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_it_copies_what_exists() -> None:
    copied = [word for line in re.findall(r"^COPY ([^-].+)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert copied
    for path in copied:
        tracked = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True, check=True)
        assert tracked.stdout, f"{path} is not in the repository"
    used = set(re.findall(r"requirements/[\w-]+\.txt", DOCKERFILE))
    assert used == {"requirements/serve.txt", "requirements/paddleocr-vl.txt"}


def test_it_runs_what_the_project_knows() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", DOCKERFILE)) | set(re.findall(r'"-m", "([\w.]+)"', DOCKERFILE))
    assert modules == {"pip", "serve_app", "serve_app.raster.fonts", "serve_app.recognition.engines.tessdata"}
    assert all(f"-m {module}" in MAKEFILE for module in modules)


def test_both_images_build_on_the_same_base_with_the_languages_and_fonts_of_the_makefile() -> None:
    assert list(stages())[-1] == "cpu", "a build without a target builds the last one"
    assert set(re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.M)) == {"wheel", "gpu", "cpu"}
    base = stages()["base"]
    for variable, package in (("LANGUAGES", "tesseract-ocr-{}"), ("FONTS", "{}")):
        words = re.search(rf"{variable} := (.+)", MAKEFILE)
        assert words is not None
        for word in words[1].split():
            assert package.format(word) in base
    assert '"configs/gpu.yaml"' in stages()["gpu"] and '"configs/local.yaml"' in stages()["cpu"]


def test_both_images_run_as_a_numbered_user_who_owns_the_folders_that_are_written_to() -> None:
    """By a name alone, Kubernetes cannot tell that a user is not root."""
    user = re.search(r"useradd --uid (\d+) .*ocr .* chown ocr output temp", stages()["base"])
    assert user is not None
    for image in ("gpu", "cpu"):
        assert re.findall(r"^USER (.+)$", stages()[image], re.M) == [user[1]]
        assert stages()[image].rindex("USER") < stages()[image].rindex("CMD")

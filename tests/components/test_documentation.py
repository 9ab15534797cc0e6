"""README, docs/ and the files beside them: complete, linked, in step with the code and with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from serve_app import errors
from serve_app.cli.settings_table import settings_page
from serve_app.document.warnings import WarningCode
from serve_app.errors import ServiceError
from serve_app.ingress.requests.document_fields import OcrRequest
from serve_app.ingress.routes.jobs import JobFields
from serve_app.outputs.formats import MEDIA_TYPES
from serve_app.settings import Secrets
from tests.support.documentation import DOCUMENTATION, PAGES, READMES, ROOT, anchors, code_blocks, headings, links

API = (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("file", DOCUMENTATION, ids=lambda file: file.name)
def test_links_lead_to_files_and_headings_that_exist(file: Path) -> None:
    text = file.read_text()
    for link in links(text):
        url = urlsplit(link)
        if url.scheme:
            assert (url.scheme, bool(url.hostname)) == ("https", True), link
            continue
        target = file.parent / url.path if url.path else file
        assert target.is_file(), link
        assert not url.fragment or url.fragment in anchors(target.read_text()), link


def test_the_readme_links_every_page() -> None:
    for readme in READMES:
        linked = {urlsplit(link).path for link in links(readme.read_text())}
        assert {f"docs/{page.name}" for page in PAGES if page.name != "index.md"} <= linked


def test_the_readmes_are_a_page_long_and_the_same_but_for_the_language() -> None:
    english, russian = (readme.read_text() for readme in READMES)
    assert max(len(text.splitlines()) for text in (english, russian)) <= 150
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(russian)]
    assert commands(english) == commands(russian)
    assert sorted(links(english.replace("README.ru.md", "-").replace("page-en", "page-ru"))) == sorted(
        links(russian.replace("README.md", "-"))
    )
    assert not [title for level, title in headings(russian) if level > 1 and not re.search("[а-яё]", title)]


def commands(readme: str) -> list[str]:
    """Each line of shell, without its comment; the samples differ by language."""
    shell = "".join(content for language, content in code_blocks(readme) if language == "bash")
    return [re.sub(r"\s+# .*", "", line).replace("page-en", "page-ru") for line in shell.splitlines()]


def test_configuration_is_written_from_the_settings() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_page(), "run `make configuration`"


def test_every_secret_is_documented() -> None:
    page = settings_page()
    assert not [name for name in Secrets.model_fields if f"| `OCR_{name.upper()}` |" not in page]


def test_every_error_is_documented_with_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    rows = [row for row in API.splitlines() if re.match(r"\| [45]\d\d", row)]
    for kind in kinds:
        (row,) = [row for row in rows if f"`{kind.code}`" in row]
        assert str(kind.status) in row.split("|")[1], kind.code


def test_every_warning_is_documented_and_has_no_code_of_an_error() -> None:
    assert rows_below("## Warnings") == set(WarningCode)
    listed = {code for row in API.splitlines() if re.match(r"\| [45]\d\d", row) for code in re.findall("`(\\w+)`", row)}
    assert not listed & set(WarningCode)
    # Codes that are written out are those of errors, so no warning passes by the list.
    source = "".join(file.read_text() for file in (ROOT / "serve_app").rglob("*.py"))
    assert set(re.findall(r'ErrorInfo\(\s*code=f?"(\w+)"', source)) <= listed


def test_every_number_of_a_test_is_a_row_of_the_threat_model() -> None:
    numbered = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "threat-model.md").read_text(), re.M)
    assert [int(number) for number in numbered] == list(range(1, len(numbered) + 1))
    names = re.findall(
        r"def test_rows?((?:_\d+)+)_", "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    )
    used = {number for name in names for number in name.split("_")[1:]}
    assert used and used <= set(numbered)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    html = {page.stem: (tmp_path / f"{page.stem}.html").read_text() for page in PAGES}
    assert 'href="operate.html#security"' in html["threat-model"]
    for name, content in html.items():
        assert "</html>" in content, name
        assert not re.search(r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//', content), (
            f"{name} loads from elsewhere"
        )
        assert not re.search(r'<link[^>]* rel="stylesheet"[^>]* href="(?:https?:)?//', content), name


def test_a_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    (tmp_path / "index.md").write_text("# A\n\n[file](missing.md) [heading](#missing)\n")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(tmp_path),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert all(re.search(f"target not found: '#?{target}'", done.stderr) for target in ("missing.md", "missing"))


def test_make_alone_prints_the_targets_that_the_documentation_names() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    printed = dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", done.stdout, re.M))
    assert len(printed) == len(done.stdout.splitlines()) >= 10
    named = {name for file in DOCUMENTATION for name in re.findall(r"`make ([a-z-]+)", file.read_text())}
    assert {"check", "docs", "serve", "test"} <= named <= printed.keys()


def test_the_hooks_before_a_commit_are_the_locked_tools() -> None:
    file = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", file], check=True)
    repositories = yaml.safe_load(file.read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    tools = {hook["entry"].split()[0] for hook in repositories[0]["hooks"]}
    locked = (ROOT / "requirements" / "dev.txt").read_text()
    assert tools == {".venv/bin/ruff", ".venv/bin/codespell"}
    assert all(f"\n{Path(tool).name}==" in locked for tool in tools)


def test_the_map_of_rooms_has_the_floors_that_lint_holds() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| \d+ \| (.+) \|$", architecture, re.M)
    on_the_map = [set(re.findall(r"(?:^|· )`(\w+)`", row)) for row in rows]
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    assert on_the_map == [layer for layer in layers if layer != {"__main__"}]


def test_the_code_that_the_documentation_names_exists() -> None:
    """Files by path; classes, functions and constants by name, in the file that is named beside them."""
    for file in (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"):
        text = file.read_text()
        paths = re.findall(r"`((?:serve_app|tests|examples|benchmarks)/[\w/.]*)`", text)
        assert paths, file.name
        assert not [path for path in paths if not (ROOT / path).exists()], file.name
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`(\w+)` \(`([\w/.]+\.py)`\)", architecture)
    named += [(name, path) for name, path in re.findall(r"`([A-Z]\w+)`[^`.]* in `([\w/.]+\.py)`", architecture)]
    assert len(named) >= 5
    for name, path in named:
        assert re.search(rf"^(?:class |def |async def )?{name}\b", (ROOT / path).read_text(), re.M), (name, path)


def test_every_option_of_a_request_is_documented() -> None:
    assert rows_below("## Options") == OcrRequest.model_fields.keys() - {"image_base64", "image_url"}
    of_jobs_alone = JobFields.model_fields.keys() - OcrRequest.model_fields.keys()
    assert of_jobs_alone < rows_below("## Jobs")


def test_every_output_is_documented_with_its_media_type() -> None:
    for output, media_type in MEDIA_TYPES.items():
        assert re.search(rf"^\|[^|]*`{output}`[^|]*\|[^|]*`{re.escape(media_type)}`", API, re.M), output


def rows_below(heading: str) -> set[str]:
    """The names in code that begin the rows of tables in a section of docs/api.md."""
    section = API.partition(f"{heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.M))

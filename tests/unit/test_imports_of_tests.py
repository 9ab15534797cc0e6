"""Test modules stand alone: what several need is in tests/support."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Also within scripts that a test runs in a process of its own.
IMPORT = re.compile(r"^\s*(?:from|import)\s+(tests\.[\w.]+)", re.MULTILINE)


def imported(text: str) -> set[str]:
    return set(IMPORT.findall(text))


@pytest.mark.parametrize(
    "text",
    ["from tests.unit.test_x import y", "    import tests.unit.test_x", "x = '''\nfrom tests.unit.test_x import y'''"],
)
def test_an_import_is_found(text: str) -> None:
    assert imported(text) == {"tests.unit.test_x"}


def test_no_test_module_imports_another() -> None:
    modules = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    assert len(modules) > 100
    for path in modules:
        name = ".".join(("tests", *path.relative_to(TESTS).with_suffix("").parts))
        others = {module for module in imported(path.read_text()) if not module.startswith("tests.support.")}
        assert others <= {name}, f"{name} imports {others - {name}}: move what they share to tests/support"

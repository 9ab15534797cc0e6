"""Searchable PDFs as pdf.js reads them, which browsers and many web applications show PDFs with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.columns import blank_scan, lines_in_order, two_columns
from tests.support.searchable_pdfs import crooked, searchable

CLIENTS = Path(__file__).parents[2] / ".clients"

SCRIPT = """
import { readFileSync } from "node:fs";
import { getDocument } from "pdfjs-dist/legacy/build/pdf.mjs";
const texts = [];
for (const path of process.argv.slice(2)) {
  const pdf = await getDocument({ data: new Uint8Array(readFileSync(path)), verbosity: 0 }).promise;
  const content = await (await pdf.getPage(1)).getTextContent();
  texts.push(content.items.map((item) => item.str + (item.hasEOL ? "\\n" : "")).join(""));
}
console.log(JSON.stringify(texts));
"""


@pytest.mark.parametrize("rotate", [None, 90], ids=["image", "pdf"])
def test_lines_of_crooked_and_turned_pages_come_in_reading_order(rotate: int | None, tmp_path: Path) -> None:
    assert (CLIENTS / "node_modules/pdfjs-dist").exists(), "make test installs it; by itself: make .clients/installed"
    upright = two_columns()
    files = []
    for rotation, skew in [(0, 0), (0, 3), (0, -8), (90, 0), (90, -3), (180, 0), (180, 2), (270, 0), (270, 5)]:
        page = crooked(upright, skew, rotation).model_copy(update={"skew": float(skew)})
        files.append(tmp_path / f"{rotation}-{skew}.pdf")
        files[-1].write_bytes(searchable(blank_scan(page, rotate), page))
    script = CLIENTS / "pdf-js-test.mjs"  # beside what it imports
    script.write_text(SCRIPT)

    done = subprocess.run(["node", script, *files], capture_output=True, text=True, timeout=90, check=False)

    assert done.returncode == 0, done.stderr
    for file, text in zip(files, json.loads(done.stdout), strict=True):
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        assert lines == lines_in_order(upright), file.name

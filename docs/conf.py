"""The site of this folder: `make docs` builds it with Sphinx, and fails on any warning."""

from importlib.metadata import version as version_of

from pygments.lexers.data import JsonLexer
from sphinx.highlighting import lexers

project = "PaddleOCR-VL Serve"
copyright = "the authors of PaddleOCR-VL Serve"
version = release = version_of("paddleocr-vl-serve")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# People also read the files on code hosts: links are relative paths, and headings have the anchors of code hosts.
myst_heading_anchors = 3
nitpicky = True
lexers["jsonl"] = JsonLexer()

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_sphinx = False

"""Options for writing a document, validated before they reach a writer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputOptions:
    """How to write a result; a writer ignores the options that do not concern its format.

    `include_images` embeds the pictures in JSON and Markdown; HTML always has them.
    `straighten` turns the pages of a PDF so that their text is upright and level.
    `pdf_a` makes a PDF one for archives, PDF/A-2b.
    `page_marks` puts the page's number before each page in Markdown and text.
    """

    include_images: bool = False
    page_marks: bool = False
    straighten: bool = False
    pdf_a: bool = False


DEFAULT = OutputOptions()
"""The options of stored results."""

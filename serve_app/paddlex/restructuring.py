"""What is asked for where pages are made of one piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restructuring:
    merge_tables: bool = True
    relevel_titles: bool = True
    concatenate: bool = False
    prettify_markdown: bool = True
    show_formula_number: bool = False

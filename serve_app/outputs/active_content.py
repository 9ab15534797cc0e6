"""Removes active content (scripts, actions, media, attached files) from the pages and form fields of a PDF."""

from __future__ import annotations

from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.outputs.odd_names import name_of

_PAGE_KEYS = (
    *("/Type", "/Parent", "/Resources", "/MediaBox", "/CropBox", "/BleedBox", "/TrimBox", "/ArtBox", "/Rotate"),
    *("/UserUnit", "/Contents", "/Group", "/Annots", "/Tabs"),
)
_HARMLESS_ACTIONS = ("/GoTo", "/Named", "/URI")
_HARMLESS_SCHEMES = (b"http://", b"https://", b"mailto:")
_EMPTY_WITHOUT_FILE = ("/FileAttachment", "/Sound", "/Movie", "/RichMedia", "/3D")
"""Subtypes of annotations that are invalid without the file or medium that they carry."""

_LINKS = ("/Parent", "/Popup", "/IRT")
_FILES_AND_MEDIA = ("/AA", "/AF", "/FS", "/Movie", "/Sound", "/RichMediaContent", "/RichMediaSettings", "/3DD", "/PA")


def defuse_page(leaf: pikepdf.Object, seen: set[tuple[int, int]]) -> None:
    """Remove active content from a page.

    `seen` has the objects already processed: pages may share a list of annotations, with a hundred thousand entries.
    """
    for key in set(leaf.keys()) - set(_PAGE_KEYS):
        del leaf[name_of(key)]
    annotations = leaf.get("/Annots")
    if not isinstance(annotations, Array) or annotations.objgen in seen:
        return
    _defuse_all(list(annotations), seen)
    for position in reversed(range(len(annotations))):
        annotation = annotations[position]
        if isinstance(annotation, Dictionary) and annotation.get("/Subtype") in _EMPTY_WITHOUT_FILE:
            if "/AP" in annotation:
                annotation.Subtype = Name.Stamp  # it looks the same
            else:
                del annotations[position]
    if annotations.is_indirect:
        seen.add(annotations.objgen)


def defuse_fields(result: Pdf) -> None:
    """Remove active content from form fields, including those on no page."""
    form = result.Root.get("/AcroForm")
    fields = form.get("/Fields") if isinstance(form, Dictionary) else None
    if isinstance(fields, Array):
        _defuse_all(list(fields), set())


def _defuse_all(waiting: list[Any], seen: set[tuple[int, int]]) -> None:
    """Remove the actions of annotations and form fields, and of those that they lead to: parts, parents, notes on them."""
    while waiting:
        found = waiting.pop()
        if not isinstance(found, Dictionary) or (found.is_indirect and found.objgen in seen):
            continue
        seen.add(found.objgen)
        _defuse(found)
        kids = found.get("/Kids")
        waiting += [*(kids if isinstance(kids, Array) else ()), *(found[key] for key in _LINKS if key in found)]


def _defuse(annotation: Dictionary) -> None:
    """Remove all actions of an annotation or form field, except links to pages and to the web. Its appearance stays."""
    for key in _FILES_AND_MEDIA:
        if key in annotation:
            del annotation[key]
    action = annotation.get("/A")
    if isinstance(action, Dictionary) and _is_harmless(action):
        if "/Next" in action:
            del action["/Next"]
    elif action is not None:
        del annotation["/A"]


def _is_harmless(action: pikepdf.Object) -> bool:
    uri = action.get("/URI")
    address = bytes(uri).strip().lower() if isinstance(uri, pikepdf.String) else b""
    kind = action.get("/S")
    return kind in _HARMLESS_ACTIONS and (kind != "/URI" or address.startswith(_HARMLESS_SCHEMES))

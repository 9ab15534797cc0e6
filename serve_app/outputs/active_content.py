"""Removes active content (scripts, actions, media, attached files) from the pages and form fields of a PDF."""

from __future__ import annotations

from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.errors import CorruptDocument
from serve_app.outputs.odd_names import name_of

_PAGE_KEYS = (
    *("/Type", "/Parent", "/Resources", "/MediaBox", "/CropBox", "/BleedBox", "/TrimBox", "/ArtBox", "/Rotate"),
    *("/UserUnit", "/Contents", "/Group", "/Annots", "/Tabs"),
)
_HARMLESS_ACTIONS = ("/GoTo", "/Named", "/URI")
_HARMLESS_SCHEMES = (b"http://", b"https://", b"mailto:")
_EMPTY_WITHOUT_FILE = ("/FileAttachment", "/Sound", "/Movie", "/RichMedia", "/3D")
"""Subtypes of annotations that are invalid without the file or medium that they carry."""

MAX_SHARED = 100_000
"""Most notes of all pages that other pages have too. Each page gets its own copy: of a form field, that takes 6 KB."""

_LINKS = ("/Parent", "/Popup", "/IRT")
_FILES_AND_MEDIA = ("/AA", "/AF", "/FS", "/Movie", "/Sound", "/RichMediaContent", "/RichMediaSettings", "/3DD", "/PA")


class Defuser:
    """Removes active content from pages of a PDF, one after another. Pages may share notes, and lists of them."""

    def __init__(self) -> None:
        self._done: set[tuple[int, int]] = set()  # notes, fields and lists
        self._shared = 0

    def defuse(self, leaf: pikepdf.Object) -> None:
        """Remove active content from a page. Raises CorruptDocument from MAX_SHARED on."""
        for key in set(leaf.keys()) - set(_PAGE_KEYS):
            del leaf[name_of(key)]
        annotations = leaf.get("/Annots")
        if not isinstance(annotations, Array):
            return
        is_done = _is_in(annotations, self._done)
        self._shared += len(annotations) if is_done else sum(_is_in(note, self._done) for note in annotations)
        if self._shared > MAX_SHARED:
            raise CorruptDocument("The pages of the PDF share too many notes.")
        if is_done:
            return
        _defuse_all(list(annotations), self._done)
        for position in reversed(range(len(annotations))):
            annotation = annotations[position]
            if not isinstance(annotation, Dictionary):
                del annotations[position]  # qpdf copies no page with one
            elif annotation.get("/Subtype") in _EMPTY_WITHOUT_FILE:
                if "/AP" in annotation:
                    annotation.Subtype = Name.Stamp  # it looks the same
                else:
                    del annotations[position]
        _add(annotations, self._done)


def defuse_fields(result: Pdf) -> None:
    """Remove active content from form fields, including those on no page."""
    form = result.Root.get("/AcroForm")
    fields = form.get("/Fields") if isinstance(form, Dictionary) else None
    if isinstance(fields, Array):
        _defuse_all(list(fields), set())


def _defuse_all(waiting: list[Any], done: set[tuple[int, int]]) -> None:
    """Remove the actions of annotations and form fields, and of those that they lead to: parts, parents, notes on them."""
    while waiting:
        found = waiting.pop()
        if not isinstance(found, Dictionary) or _is_in(found, done):
            continue
        _add(found, done)
        _defuse(found)
        kids = found.get("/Kids")
        waiting += [*(kids if isinstance(kids, Array) else ()), *(found[key] for key in _LINKS if key in found)]


def _is_in(found: Any, done: set[tuple[int, int]]) -> bool:
    return isinstance(found, pikepdf.Object) and found.is_indirect and found.objgen in done


def _add(found: pikepdf.Object, done: set[tuple[int, int]]) -> None:
    if found.is_indirect:  # all others have the same number
        done.add(found.objgen)


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

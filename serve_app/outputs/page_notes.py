"""Makes the notes and form fields of a PDF part of their pages, as a viewer shows them."""

from __future__ import annotations

from copy import copy

import pikepdf
from pikepdf import AcroForm, Annotation, Array, Dictionary, Name, Pdf

from serve_app.outputs.odd_names import name_of
from serve_app.outputs.page_content import balance_states, enclose, resources_of

_HIDDEN = 1 | 2 | 32  # flags: invisible, hidden, no view


def flatten_notes(pdf: Pdf) -> None:
    """Draw what notes and fields look like on each page, after its content. Those without a look stay, such as links.

    A page keeps such notes in a list of its own, and no other page has the same ones. Fields stay if the PDF leaves it to
    the viewer to give them their look.
    """
    fields = pdf.acroform
    seen: set[tuple[int, int]] = set()
    for position, page in enumerate(pdf.pages):
        notes = page.obj.get("/Annots")
        if isinstance(notes, Array):
            _flatten(pdf, page, f"/Notes{position}", notes, fields, seen)
    if "/AcroForm" in pdf.Root and not fields.needs_appearances:
        del pdf.Root.AcroForm


def _flatten(
    pdf: Pdf, page: pikepdf.Page, name: str, notes: Array, fields: AcroForm, seen: set[tuple[int, int]]
) -> None:
    # qpdf's own function looks at all names of the page anew for each note, and lets a list of notes be only one page's.
    kept, content, looks = list[pikepdf.Object](), list[bytes](), Dictionary()
    for note in notes:
        if not isinstance(note, Dictionary):
            continue
        it = Annotation(note)
        is_field = it.subtype == Name.Widget
        if "/AP" not in note or (is_field and fields.needs_appearances):
            kept.append(_own(pdf, note, seen))
            continue
        look = it.get_appearance_stream(Name.N)
        if not isinstance(look, pikepdf.Stream):
            continue
        drawing = it.get_page_content_for_appearance(Name(f"/N{len(content)}"), page.rotation, 0, _HIDDEN)
        if drawing:
            if is_field:
                _complete(look, fields.get_field_for_annotation(it).default_resources)
            if "/OC" in note and "/OC" not in look:
                look.OC = note.OC  # its layer
            looks[f"/N{len(content)}"] = look
            content.append(drawing)
    page.obj.Annots = Array(kept)
    if content:
        form = pdf.make_stream(b"".join(content), Type=Name.XObject, Subtype=Name.Form, BBox=page.mediabox)
        form.Resources = Dictionary(XObject=looks)
        balance_states(pdf, page)
        _draw(pdf, page, name, form)


def _own(pdf: Pdf, note: Dictionary, seen: set[tuple[int, int]]) -> pikepdf.Object:
    """Return the note, or a copy if another page has it."""
    if not note.is_indirect:
        return note
    if note.objgen in seen:
        return pdf.make_indirect(copy(note))
    seen.add(note.objgen)
    return note


def _complete(look: pikepdf.Object, defaults: pikepdf.Object) -> None:
    """Give the look of a field the resources of its form that it lacks."""
    if not isinstance(defaults, Dictionary):
        return
    own = look.get("/Resources")
    resources = copy(own) if isinstance(own, Dictionary) else Dictionary()
    for kind, named in defaults.items():
        if isinstance(named, Dictionary):
            have = resources.get(name_of(kind))
            resources[name_of(kind)] = both = copy(named)
            for key, value in have.items() if isinstance(have, Dictionary) else ():
                both[name_of(key)] = value
    look.Resources = resources


def _draw(pdf: Pdf, page: pikepdf.Page, name: str, form: pikepdf.Object) -> None:
    """Draw a form over the page's content."""
    forms = resources_of(page.obj, "/XObject")
    while name in forms:
        name += "-"
    forms[name] = form
    enclose(pdf, page.obj, pdf.make_stream(b"q\n"), f"\nQ {name} Do\n".encode())

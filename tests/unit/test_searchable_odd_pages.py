"""Searchable PDFs of documents in which something is odd: it costs a page at most, and the others are kept."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf, String

from serve_app.outputs.odd_names import name_of
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.outputs.writer_exit import PagesNotKept
from serve_app.runtime.mapped_file import unnamed_file
from tests.support.searchable_pdfs import page_of, pdftotext, plain_pdf, words_block

ODD = name_of("/\udcff\udcfe")  # not UTF-8
HIDDEN = b"BT 3 Tr /F1 12 Tf 20 100 Td (0ld) Tj ET "
ODD_OPERATOR = b" 1 \xff\xfe "
SQUARE = b"0 0 60 20 re f"


def written(
    change: Callable[[Pdf, pikepdf.Object], None], *, straighten: bool = False, draw: tuple[int, ...] = ()
) -> tuple[bytes, list[int]]:
    """The result for three crooked pages whose second one is changed, and which pages are drawn."""

    def change_second(pdf: Pdf) -> None:
        font = pdf.make_indirect(Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica))
        for page in pdf.pages:
            page.obj.Resources = Dictionary(Font=Dictionary(F1=font), XObject=Dictionary())
        change(pdf, pdf.pages[1].obj)

    pages = [page_of(words_block(("слово", (100, 60, 200, 100))), number=number, skew=3.0) for number in (1, 2, 3)]
    out = io.BytesIO()
    with unnamed_file(plain_pdf(3, change_second)) as source:
        drawn = write_searchable_pdf(source, pages, password=None, straighten=straighten, to=out, draw=draw)
    return out.getvalue(), drawn


def form(pdf: Pdf, content: bytes, **entries: Any) -> pikepdf.Stream:
    return pdf.make_stream(
        content, Type=Name.XObject, Subtype=Name.Form, **{"BBox": Array([0, 0, 300, 200]), **entries}
    )


def field(pdf: Pdf, leaf: pikepdf.Object, **entries: Any) -> pikepdf.Object:
    """A field with a look, which is all notes of a page."""
    look = form(pdf, SQUARE, BBox=Array([0, 0, 60, 20]))
    widget = Dictionary(Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T=String("f"), Rect=Array([10, 10, 70, 30]))
    widget.AP = Dictionary(N=look)
    for key, value in entries.items():
        widget[f"/{key}"] = value
    note = pdf.make_indirect(widget)
    leaf.Annots = Array([note])
    pdf.Root.AcroForm = Dictionary(Fields=Array([note]))
    return note


def odd_operator(pdf: Pdf, leaf: pikepdf.Object) -> None:
    leaf.Contents = pdf.make_stream(b"q " + HIDDEN + ODD_OPERATOR + SQUARE)


def odd_operator_in_a_form(pdf: Pdf, leaf: pikepdf.Object) -> None:
    leaf.Resources.XObject.Odd = form(pdf, HIDDEN + ODD_OPERATOR + SQUARE, Resources=leaf.Resources)
    leaf.Contents = pdf.make_stream(b"/Odd Do")


def odd_names(pdf: Pdf, leaf: pikepdf.Object) -> None:
    for entries in (leaf, leaf.Resources, leaf.Resources.Font):
        entries[ODD] = Dictionary()
    leaf.Resources.XObject[ODD] = form(pdf, HIDDEN + SQUARE, Resources=leaf.Resources)
    leaf.Contents = pdf.make_stream(b"q /#ff#fe gs /#ff#fe Do /#ff#fe sh BT /#ff#fe 12 Tf ET")


def odd_form(pdf: Pdf, leaf: pikepdf.Object) -> None:
    leaf.Resources.XObject.Odd = form(pdf, SQUARE, Matrix=Array([1, 0, 0, Name.Odd, 0, 0]))
    leaf.Contents = pdf.make_stream(b"/Odd Do " + HIDDEN)


def odd_action(pdf: Pdf, leaf: pikepdf.Object) -> None:
    field(pdf, leaf, A=Dictionary(S=ODD), AA=ODD, Kids=ODD, Parent=ODD, MK=ODD)


def odd_note(pdf: Pdf, leaf: pikepdf.Object) -> None:
    field(pdf, leaf)
    leaf.Annots.append(Name.Odd)


def odd_resources_of_a_field(pdf: Pdf, leaf: pikepdf.Object) -> None:
    field(pdf, leaf).AP.N.Resources = Dictionary(Font=Dictionary())
    leaf.Annots[0].AP.N.Resources.Font[ODD] = Dictionary()
    pdf.Root.AcroForm.DR = Dictionary(Font=Dictionary())
    pdf.Root.AcroForm.DR[ODD] = Dictionary()
    pdf.Root.AcroForm.DR.Font[ODD] = Dictionary()


def odd_labels(pdf: Pdf, leaf: pikepdf.Object) -> None:
    pdf.Root.PageLabels = Dictionary(Nums=Array([0, Dictionary(S=Name.D, St=Name.Odd)]))


def odd_bookmark(pdf: Pdf, leaf: pikepdf.Object) -> None:
    with pdf.open_outline() as outline:
        outline.root.append(pikepdf.OutlineItem("second", 1))
    pdf.Root.Outlines.First.Dest = Array([leaf, pdf.make_indirect(Array([]))])


@pytest.mark.parametrize("straighten", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        odd_operator,
        odd_operator_in_a_form,
        odd_names,
        odd_form,
        odd_action,
        odd_note,
        odd_resources_of_a_field,
        odd_labels,
        odd_bookmark,
    ],
)
def test_a_document_with_something_odd_is_kept(change: Callable[[Pdf, pikepdf.Object], None], straighten: bool) -> None:
    data, drawn = written(change, straighten=straighten)

    assert drawn == []
    assert pdftotext(data, "-q").split() == ["слово"] * 3, "hidden text goes"


def odd_destination(pdf: Pdf, leaf: pikepdf.Object) -> None:
    leaf.Annots = Array([Dictionary(Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), Dest=String("there"))])
    there = Array([leaf, Name.XYZ, pdf.make_indirect(Array([0]))])
    pdf.Root.Names = Dictionary(Dests=Dictionary(Names=Array([String("there"), there])))


def test_a_page_that_is_too_odd_to_be_copied_is_the_only_one_that_is_drawn() -> None:
    with pytest.raises(PagesNotKept) as caught:
        written(odd_destination)

    assert caught.value.positions == (1,)
    assert written(odd_destination, draw=caught.value.positions)[1] == [2]


def test_actions_go_from_notes_that_are_written_within_their_pages() -> None:
    def act(pdf: Pdf, leaf: pikepdf.Object) -> None:
        for page in pdf.pages:
            action = Dictionary(S=Name.JavaScript, JS=String("app.alert(1)"))
            page.obj.Annots = Array([Dictionary(Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), A=action)])

    with Pdf.open(io.BytesIO(written(act)[0])) as pdf:
        assert ["/A" in page.obj.Annots[0] for page in pdf.pages] == [False] * 3


def test_pages_that_share_too_many_notes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(pdf: Pdf, leaf: pikepdf.Object) -> None:
        field(pdf, leaf)
        for page in pdf.pages:
            page.obj.Annots = leaf.Annots
        pdf.pages[1].obj.Annots = pdf.make_indirect(leaf.Annots)
        pdf.pages[2].obj.Annots = pdf.pages[1].obj.Annots

    assert written(share)[1] == []

    monkeypatch.setattr("serve_app.outputs.active_content.MAX_SHARED", 1)
    assert written(share)[1] == [3]

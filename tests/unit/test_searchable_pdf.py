"""Searchable PDFs of PDFs, as poppler, PDFium and qpdf see them."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf

from serve_app.document import Page
from serve_app.errors import CorruptDocument, EmptyDocument, PasswordRequired, UnsupportedMediaType
from serve_app.outputs.searchable_pdf import write_searchable_pdf
from serve_app.runtime.mapped_file import unnamed_file
from tests.support.searchable_pdfs import (
    drawn,
    encoded,
    page_of,
    pdftotext,
    photo,
    plain_pdf,
    searchable,
    words_block,
)


def helvetica() -> Dictionary:
    return Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)


@pytest.mark.parametrize("shared", ["resources", "fonts", "inherited", "none"])
def test_fonts_of_the_page_stay_whatever_they_are_called_and_shared_with(shared: str) -> None:
    def change(pdf: Pdf) -> None:
        fonts = pdf.make_indirect(Dictionary({"/OcrText": helvetica(), "/F1": helvetica()}))
        resources = pdf.make_indirect(Dictionary(Font=fonts))
        for page in pdf.pages:
            if shared != "none":
                page.obj.Contents = pdf.make_stream(b"BT /OcrText 30 Tf 20 60 Td (visible) Tj ET")
            if shared == "resources":
                page.obj.Resources = resources
            elif shared == "fonts":
                page.obj.Resources = Dictionary(Font=fonts)
            else:
                del page.obj["/Resources"]
        if shared == "inherited":
            pdf.Root.Pages.Resources = resources

    source = plain_pdf(2, change)

    data = searchable(
        source,
        page_of(words_block(("один", (20, 20, 90, 50)))),
        page_of(words_block(("два", (20, 20, 90, 50))), number=2),
    )

    own = [] if shared == "none" else ["visible"]
    assert [sorted(text.split()) for text in pdftotext(data).split("\f")[:2]] == [
        sorted(["один", *own]),
        sorted(["два", *own]),
    ]
    for index in range(2):
        assert np.array_equal(drawn(data, index), drawn(source, index))


def test_what_acts_or_hides_in_the_original_is_gone_and_web_links_stay() -> None:
    def change(pdf: Pdf) -> None:
        script = Dictionary(S=Name.JavaScript, JS="app.alert('script-marker')")
        launch = Dictionary(S=Name.Launch, F="launch-marker")
        pdf.Root.OpenAction, pdf.Root.AA = script, Dictionary(WC=script)
        pdf.Root.Names = Dictionary(JavaScript=Dictionary(Names=Array(["a", script])))
        pdf.attachments["secret.txt"] = b"attachment-marker"
        file = pdf.make_indirect(
            Dictionary(Type=Name.Filespec, F="x", EF=Dictionary(F=pdf.make_stream(b"attachment-marker")))
        )
        page = pdf.pages[0].obj
        page.AA, page.AF, page.PieceInfo = Dictionary(O=script), Array([file]), Dictionary(X=Dictionary(Private=file))

        def link(**entries: Any) -> Dictionary:
            return Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), **entries)

        page.Annots = Array(
            [
                link(A=script),
                pdf.make_indirect(link(A=launch, AA=Dictionary(E=script))),
                link(A=Dictionary(S=Name.URI, URI="https://example.org/", Next=script)),
                link(A=Dictionary(S=Name.URI, URI="javascript:script-marker")),
                link(A=Dictionary(S=Name.GoToR, F="launch-marker")),
                Dictionary(Type=Name.Annot, Subtype=Name.FileAttachment, Rect=Array([0, 0, 9, 9]), FS=file),
            ]
        )
        parts = [Dictionary(T=name, AA=Dictionary(K=script)) for name in ("a", "b")]
        field = pdf.make_indirect(Dictionary(FT=Name.Tx, T="hidden", AA=Dictionary(K=script), A=launch))
        field.Kids = Array(parts)
        shown = Dictionary(
            Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="f", Rect=Array([0, 0, 9, 9]), AA=Dictionary(F=script)
        )
        shown = pdf.make_indirect(shown)
        page.Annots.append(shown)
        parent = pdf.make_indirect(Dictionary(FT=Name.Tx, T="parent", AA=Dictionary(K=script), A=script))
        child = Dictionary(Type=Name.Annot, Subtype=Name.Widget, Rect=Array([0, 0, 9, 9]), Parent=parent)
        parent.Kids = Array([pdf.make_indirect(child)])
        page.Annots.append(parent.Kids[0])
        popup = pdf.make_indirect(Dictionary(Type=Name.Annot, Subtype=Name.Popup, Rect=Array([0, 0, 9, 9]), A=script))
        reply = Dictionary(Type=Name.Annot, Subtype=Name.Text, Rect=Array([0, 0, 9, 9]), IRT=link(A=script))
        page.Annots.extend([pdf.make_indirect(link(Popup=popup)), pdf.make_indirect(reply)])
        pdf.Root.AcroForm = Dictionary(Fields=Array([field, shown, parent]), XFA="script-marker")

    data = searchable(plain_pdf(change=change), page_of())

    with Pdf.open(io.BytesIO(data)) as pdf:
        everything = b"".join(
            obj.unparse(resolved=True) + (obj.read_bytes() if isinstance(obj, pikepdf.Stream) else b"")
            for obj in pdf.objects
        )
        assert len(pdf.attachments) == 0
        assert not {"/OpenAction", "/AA", "/Names"} & set(pdf.Root.keys())
    for trace in (b"marker", b"/JavaScript", b"/JS", b"/AA", b"/Launch", b"/EF", b"/EmbeddedFile", b"/XFA", b"/GoToR"):
        assert trace not in everything
    assert b"https://example.org/" in everything


@pytest.mark.parametrize("subtype", ["FileAttachment", "Sound", "Movie", "RichMedia", "3D"])
def test_a_note_whose_file_is_left_out_looks_the_same_and_is_valid(subtype: str) -> None:
    def change(pdf: Pdf) -> None:
        sign = pdf.make_stream(b"1 0 0 rg 0 0 20 20 re f", Type=Name.XObject, Subtype=Name.Form, BBox=[0, 0, 20, 20])
        note: dict[str, Any] = {"Type": Name.Annot, "Subtype": Name("/" + subtype), "Rect": Array([30, 30, 50, 50])}
        seen = Dictionary(**note, AP=Dictionary(N=sign))
        pdf.pages[0].obj.Annots = Array([Dictionary(**note), pdf.make_indirect(seen), Dictionary(**note)])

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("слово", (100, 60, 200, 100)))))

    assert np.array_equal(drawn(data), drawn(source))
    with Pdf.open(io.BytesIO(data)) as pdf:
        assert [note.Subtype for note in pdf.pages[0].obj.Annots] == [Name.Stamp]
    said = subprocess.run(["pdfinfo", "-"], input=data, capture_output=True, check=True).stderr
    assert said == b""


def test_a_selection_keeps_what_leads_within_it_and_nothing_of_other_pages() -> None:
    def change(pdf: Pdf) -> None:
        def link(target: int) -> Dictionary:
            destination = Array([pdf.pages[target - 1].obj, Name.Fit])
            return Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=Array([0, 0, 9, 9]), Dest=destination)

        pdf.pages[1].obj.Annots = Array([link(3), link(4), link(1)])
        with pdf.open_outline() as outline:
            outline.root.extend(pikepdf.OutlineItem(f"page {number + 1}", number) for number in range(5))

    source = plain_pdf(5, change)

    data = searchable(
        source,
        page_of(words_block(("вторая", (20, 20, 90, 50))), number=2),
        page_of(words_block(("четвёртая", (20, 20, 90, 50))), number=4),
    )

    assert pdftotext(data).split() == ["вторая", "четвёртая"]
    assert [np.array_equal(drawn(data, i), drawn(source, j)) for i, j in ((0, 1), (1, 3))] == [True, True]
    with Pdf.open(io.BytesIO(data)) as pdf:
        contents = b"".join(obj.read_bytes() for obj in pdf.objects if isinstance(obj, pikepdf.Stream))
        assert sorted(re.findall(rb"page-\d", contents)) == [b"page-2", b"page-4"]
        targets = [annotation.get("/Dest") for annotation in pdf.pages[0].obj.Annots]
        assert [item.title for item in pdf.open_outline().root] == ["page 2", "page 4"]
        pages = [target[0].objgen for target in targets if target is not None and isinstance(target[0], Dictionary)]
        assert pages == [pdf.pages[1].obj.objgen]


def test_hidden_layers_stay_hidden_and_filled_forms_stay_filled() -> None:
    def change(pdf: Pdf) -> None:
        layer = pdf.make_indirect(Dictionary(Type=Name.OCG, Name="draft"))
        page = pdf.pages[0].obj
        page.Resources = Dictionary(Properties=Dictionary(L=layer), Font=Dictionary(F1=helvetica()))
        page.Contents = pdf.make_stream(b"/OC /L BDC 0 g 0 0 150 200 re f EMC")
        pdf.Root.OCProperties = Dictionary(OCGs=Array([layer]), D=Dictionary(OFF=Array([layer])))
        look = pdf.make_stream(b"0 0 1 rg 0 0 50 20 re f", Type=Name.XObject, Subtype=Name.Form)
        look.BBox = Array([0, 0, 50, 20])
        field = Dictionary(Type=Name.Annot, Subtype=Name.Widget, FT=Name.Tx, T="f", V="value", F=4)
        field.Rect, field.AP = Array([200, 100, 250, 120]), Dictionary(N=look)
        page.Annots = Array([pdf.make_indirect(field)])
        pdf.Root.AcroForm = Dictionary(Fields=Array([page.Annots[0]]), DA="/Helv 0 Tf")

    source = plain_pdf(change=change)

    data = searchable(source, page_of(words_block(("слово", (20, 20, 90, 50)))))

    assert np.array_equal(drawn(data), drawn(source))
    assert (drawn(data) == (255, 255, 255)).all(axis=2).sum() < 600 * 400  # the field is drawn
    assert not (drawn(data) == 0).all(axis=2).any()  # the layer is not


def test_an_encrypted_pdf_is_opened_with_its_password_and_answered_without() -> None:
    source = plain_pdf(encryption=pikepdf.Encryption(user="пароль", owner="owner"))

    data = searchable(source, page_of(words_block(("слово", (20, 20, 90, 50)))), password="пароль")

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert not pdf.is_encrypted
    assert np.array_equal(drawn(data), drawn(source, password="пароль"))
    for password in (None, "wrong"):
        with pytest.raises(PasswordRequired):
            searchable(source, page_of(), password=password)


@pytest.mark.parametrize(("user", "password"), [("café", "café"), ("", "not needed")])
def test_a_password_that_opens_the_pages_opens_the_document(user: str, password: str) -> None:
    source = plain_pdf(encryption=pikepdf.Encryption(user=user, owner="owner", R=4))
    assert (
        pdftotext(searchable(source, page_of(words_block(("слово", (20, 20, 90, 50)))), password=password)).strip()
        == "слово"
    )


def test_title_and_author_stay() -> None:
    def change(pdf: Pdf) -> None:
        pdf.docinfo.update({"/Title": "Договор № 5", "/Author": "Щукин", "/Producer": "x", "/Subject": Name.Odd})

    with Pdf.open(io.BytesIO(searchable(plain_pdf(change=change), page_of()))) as pdf:
        assert {key: str(value) for key, value in pdf.docinfo.items()} == {"/Title": "Договор № 5", "/Author": "Щукин"}


def test_bytes_are_the_same_each_time() -> None:
    page = page_of(words_block(("слово", (20, 20, 90, 50))))

    assert searchable(plain_pdf(), page) == searchable(plain_pdf(), page)


# What cannot be written


@pytest.mark.parametrize(
    ("source", "number", "error"),
    [
        (b"", 1, EmptyDocument),
        (b"hello", 1, UnsupportedMediaType),
        (b"%PDF-1.7 and no more", 1, CorruptDocument),
        (plain_pdf(), 2, CorruptDocument),
        (b"\xff\xd8\xff broken", 1, CorruptDocument),
        (b"\x89PNG\r\n\x1a\n broken", 1, CorruptDocument),
    ],
    ids=["nothing", "text", "PDF cut", "no such page", "JPEG", "PNG"],
)
def test_what_cannot_be_read_is_refused(source: bytes, number: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        searchable(source, page_of(number=number))


def test_no_pages_are_no_document() -> None:
    for source in (plain_pdf(), encoded(photo(), "PNG")):
        with pytest.raises(EmptyDocument):
            searchable(source)


def test_an_error_of_the_caller_is_not_taken_for_a_damaged_document() -> None:
    def pages() -> Iterator[Page]:
        yield page_of()
        raise ValueError("the spool is gone")

    with unnamed_file(plain_pdf(2)) as file, pytest.raises(ValueError, match="spool"):
        write_searchable_pdf(file, pages(), password=None, to=io.BytesIO())


def test_language_and_page_labels_stay() -> None:
    def describe(pdf: Pdf) -> None:
        pdf.Root.Lang = pikepdf.String("ru-RU")
        labels = [
            0,
            Dictionary(S=Name.r),
            2,
            Dictionary(S=Name.D),
            4,
            Dictionary(P=pikepdf.String("A-"), S=Name.D, St=7),
        ]
        pdf.Root.PageLabels = Dictionary(Nums=Array(labels))

    data = searchable(plain_pdf(6, describe), *(page_of(number=number) for number in (2, 3, 4, 6)))

    with Pdf.open(io.BytesIO(data)) as pdf:
        assert str(pdf.Root.Lang) == "ru-RU"
        assert [page.label for page in pdf.pages] == ["ii", "1", "2", "A-8"]


@pytest.mark.parametrize(
    "labels", [Dictionary(), Dictionary(Nums=Array([0])), Dictionary(Nums=Array([0, 5, 1, Name.X])), Name.X]
)
def test_damaged_page_labels_cost_nothing(labels: Any) -> None:
    def describe(pdf: Pdf) -> None:
        pdf.Root.PageLabels = labels
        pdf.Root.Lang = 5

    data = searchable(plain_pdf(2, describe), page_of(words_block(("слово", (100, 60, 200, 100)))), page_of(number=2))

    assert pdftotext(data).split() == ["слово"]

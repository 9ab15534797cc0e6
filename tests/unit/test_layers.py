"""Layers of a PDF count as shown where all viewers show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pikepdf import Array, Dictionary, Name, Object, Pdf

from serve_app.outputs.layers import Layers


@pytest.fixture
def pdf() -> Iterator[Pdf]:
    """Two layers, of which /D has the states."""
    with Pdf.new() as pdf:
        on, off = (pdf.make_indirect(Dictionary(Type=Name.OCG, Name=name)) for name in ("on", "off"))
        pdf.Root.OCProperties = Dictionary(OCGs=Array([on, off]), D=Dictionary(OFF=Array([off])))
        yield pdf


def rule(**entries: Any) -> Dictionary:
    return Dictionary(Type=Name.OCMD, **entries)


def is_shown(pdf: Pdf, layer: Object) -> bool:
    return Layers(pdf).are_shown(layer)


def test_a_layer_is_as_the_file_says(pdf: Pdf) -> None:
    on, off = pdf.Root.OCProperties.OCGs
    assert is_shown(pdf, on) and not is_shown(pdf, off)
    pdf.Root.OCProperties.D = Dictionary(BaseState=Name.OFF, ON=Array([off]))
    assert is_shown(pdf, off) and not is_shown(pdf, on)
    del pdf.Root.OCProperties
    assert is_shown(pdf, on)


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (Dictionary(CreatorInfo=Dictionary(Creator="x")), True),
        (Dictionary(View=Dictionary(ViewState=Name.ON), Print=Dictionary(PrintState=Name.OFF)), True),
        (Dictionary(View=Dictionary(ViewState=Name.OFF)), False),
        (Dictionary(Zoom=Dictionary(min=2)), False),
        (Name.None_, True),
    ],
    ids=["creator", "agrees", "contradicts", "depends", "none"],
)
def test_the_use_of_a_layer_counts_as_far_as_viewers_may_go_by_it(pdf: Pdf, usage: Object, shown: bool) -> None:
    on, _ = pdf.Root.OCProperties.OCGs
    pdf.Root.OCProperties.D.AS = Array([Dictionary(Event=Name.View, Category=Array([Name.View]), OCGs=Array([on]))])
    on.Usage = usage
    assert is_shown(pdf, on) is shown


def test_rules_of_which_viewers_make_different_things_show_nothing_for_certain(pdf: Pdf) -> None:
    on, off = pdf.Root.OCProperties.OCGs
    itself = pdf.make_indirect(rule())
    itself.OCGs = itself
    for vague in (
        rule(),
        rule(OCGs=Array([])),
        rule(OCGs=off, P=Name.AllOff),
        rule(OCGs=on, P=Name.Odd),
        rule(OCGs=Array([on, 7]), P=Name.AllOn),
        rule(VE=Array([])),
        rule(VE=Array([Name.Not, off, off])),
        rule(VE=Array([Name.Odd, on])),
        rule(VE=Array([Name.And, rule(OCGs=on)])),
        itself,
        Dictionary(Type=Name.Odd),
        Name.Odd,
    ):
        assert not is_shown(pdf, vague)


def test_endless_rules_end(pdf: Pdf) -> None:
    on, _ = pdf.Root.OCProperties.OCGs
    wide = Array([Name.And, on])
    for _ in range(31):
        wide = pdf.make_indirect(Array([Name.And, wide, wide]))
    circle = pdf.make_indirect(Array([Name.And]))
    circle.append(circle)
    for endless in (wide, circle):
        assert not is_shown(pdf, rule(VE=endless))

"""Options of recognition, validated before they reach an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

# The VLM would see 20,480 patches: more than any server is configured for.
MAX_BLOCK_PIXELS = 20_480 * 14 * 14
LEAST_BLOCK_PIXELS = 28 * 28  # one patch of the VLM after it joins four
MAX_NEW_TOKENS = 32_768
MAX_CLASSES = 50  # the layout model has 25

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=10)]
Merge = Literal["large", "small", "union"]
Pixels = Annotated[int, Field(ge=LEAST_BLOCK_PIXELS, le=MAX_BLOCK_PIXELS)]
# A layout class: its label ("table") or its number in the layout model.
LayoutClass = Annotated[str, Field(pattern="^[a-z0-9_]{1,40}$")]
Value = TypeVar("Value")
ByClass = Annotated[dict[LayoutClass, Value], Field(max_length=MAX_CLASSES)]


class VlmExtraArgs(BaseModel):
    """Pixel limits by kind of block. In every API, the names are those of PaddleX."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ocr_min_pixels: Pixels | None = None
    ocr_max_pixels: Pixels | None = None
    table_min_pixels: Pixels | None = None
    table_max_pixels: Pixels | None = None
    chart_min_pixels: Pixels | None = None
    chart_max_pixels: Pixels | None = None
    formula_min_pixels: Pixels | None = None
    formula_max_pixels: Pixels | None = None
    seal_min_pixels: Pixels | None = None
    seal_max_pixels: Pixels | None = None

    @model_validator(mode="after")
    def _check_pixel_order(self) -> VlmExtraArgs:
        for kind in ("ocr", "table", "chart", "formula", "seal"):
            check_pixels(getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels"))
        return self


class ParsingOptions(BaseModel):
    """Options of PaddleOCR-VL: the fields of PaddleX's /layout-parsing, in camelCase or snake_case.

    An option that is not set has the default of PaddleX's pipeline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    use_doc_orientation_classify: bool | None = Field(None, description="Turn the page upright first")
    use_doc_unwarping: bool | None = Field(None, description="Flatten a page that was photographed curved")
    use_layout_detection: bool | None = Field(None, description="Find blocks; otherwise the page is read as one block")
    use_chart_recognition: bool | None = Field(None, description="Read charts as tables; otherwise they are pictures")
    use_seal_recognition: bool | None = Field(None, description="Read the text of seals; otherwise they are pictures")
    use_ocr_for_image_block: bool | None = Field(None, description="Also read text within pictures")
    layout_nms: bool | None = Field(None, description="Remove layout boxes that overlap others")
    format_block_content: bool | None = Field(None, description="Format the contents of blocks as Markdown")
    merge_layout_blocks: bool | None = Field(None, description="Join text blocks that continue in the next column")
    layout_threshold: Share | ByClass[Share] | None = Field(
        None, description="Minimum score of a layout box: a number from 0 to 1, or an object with one per class"
    )
    layout_unclip_ratio: Ratio | tuple[Ratio, Ratio] | ByClass[tuple[Ratio, Ratio]] | None = Field(
        None,
        description="Factor by which layout boxes are enlarged: a number up to 10, a pair (width, height), or an object with a pair per class",
    )
    layout_merge_bboxes_mode: Merge | ByClass[Merge] | None = Field(
        None,
        description="Rule for nested layout boxes: keep the `large` one, the `small` one or their `union`; or an object with a rule per class",
    )
    layout_shape_mode: Literal["rect", "quad", "poly", "auto"] = Field("auto", description="Shape of layout boxes")
    prompt_label: Literal["ocr", "formula", "table", "chart", "seal", "spotting"] | None = Field(
        None, description="Content of the page, if layout detection is off"
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Repetition penalty of the VLM's sampling"
    )
    temperature: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="Temperature of the VLM's sampling"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Nucleus (top-p) of the VLM's sampling")
    min_pixels: Pixels | None = Field(None, description="Minimum pixels of a block's picture for the VLM")
    max_pixels: Pixels | None = Field(None, description="Maximum pixels of a block's picture for the VLM")
    max_new_tokens: Annotated[int, Field(gt=0, le=MAX_NEW_TOKENS)] | None = Field(
        None, description="Maximum tokens per block; the service has a limit too"
    )
    vlm_extra_args: VlmExtraArgs | None = Field(None, description="Pixel limits by kind of block")
    prettify_markdown: bool = Field(False, description="Centre titles, pictures and tables in Markdown, with HTML")
    show_formula_number: bool = Field(False, description="Show the numbers of formulas in Markdown")
    markdown_ignore_labels: tuple[LayoutClass, ...] | None = Field(
        None, max_length=MAX_CLASSES, description="Labels of blocks that Markdown leaves out"
    )

    @model_validator(mode="after")
    def _check_pixel_order(self) -> ParsingOptions:
        check_pixels(self.min_pixels, self.max_pixels)
        return self


def check_pixels(least: int | None, most: int | None) -> None:
    """Raise ValueError if the minimum is above the maximum."""
    if least is not None and most is not None and least > most:
        raise ValueError("minPixels is more than maxPixels")


@dataclass(frozen=True)
class RecognitionOptions:
    """Options of one request; an engine ignores those that do not concern it.

    `languages` are Tesseract codes in order of weight ("rus", "eng"); empty means the engine's default.
    `overlay` adds a picture of the page with its blocks drawn, `picture` one of the page as it was recognized.
    `flatten` is about sheets of paper photographed in perspective.
    """

    languages: tuple[str, ...] = ()
    parsing: ParsingOptions = field(default_factory=ParsingOptions)
    overlay: bool = False
    picture: bool = False
    flatten: Literal["auto", "true", "false"] = "auto"


@dataclass(frozen=True)
class Restructuring:
    """Options for restructuring pages as one document; `concatenate` makes one page of all."""

    merge_tables: bool = True
    relevel_titles: bool = True
    concatenate: bool = False
    prettify_markdown: bool = True
    show_formula_number: bool = False

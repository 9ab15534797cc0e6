"""Tiny models that PaddleOCRVL loads through its real code: for tests of everything but accuracy and speed.

    python -m tests.support.tiny_paddleocr_vl OUT            # scripted answers
    python -m tests.support.tiny_paddleocr_vl OUT --random   # random weights: decoding never stops by itself

OUT/vlm          PaddleOCR-VL checkpoint, serves v1, v1.5 and v1.6; answers each of the six prompts with a fixed text.
OUT/layout       PP-DocLayoutV2 and V3: fixed boxes, scaled to each page; one set for light pages, one for dark ones.
OUT/orientation  PP-LCNet_x1_0_doc_ori: an edge of the page that is darker than the others is taken for its top.
OUT/unwarping    UVDoc: returns each page as it is.

How the script works: all attention and MLP output projections are zero, so the decoder's last hidden state is the
(one-hot) embedding of the last token, and lm_head sends each scripted token to its successor. The vision tower and the
projector run in full on random weights, but cannot change the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

SPACE = "\u2581"  # how sentencepiece writes a space
BOS, EOS, UNK, CLS = "<s>", "</s>", "<unk>", "<|begin_of_sentence|>"
IMAGE_START, IMAGE, IMAGE_END = "<|IMAGE_START|>", "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_END|>"

# Prompt -> pieces of the answer. A piece is one token and appears once only, because the next token depends on nothing
# but the previous one.
SCRIPT: dict[str, tuple[str, ...]] = {
    "OCR:": (
        "Съешь ещё ",
        "этих мягких ",
        "французских булок, ",
        "да выпей чаю. ",
        "The quick ",
        "brown fox.",
    ),
    "Table Recognition:": ("<fcel>Товар", "<fcel>Price<nl>", "<fcel>Чай", "<fcel>3.50<nl>"),
    "Formula Recognition:": ("\\[ E=", "mc^{2} \\]"),
    "Chart Recognition:": ("Year | Sales\n", "2024 | 10"),
    "Seal Recognition:": ("APPROVED",),
    "Spotting:": ("Spotted", "<|LOC_10|><|LOC_10|><|LOC_90|><|LOC_10|><|LOC_90|><|LOC_90|><|LOC_10|><|LOC_90|>"),
}
# What the pipeline makes of the answers (`content` of its blocks).
OCR_TEXT = "Съешь ещё этих мягких французских булок, да выпей чаю. The quick brown fox."
TABLE_HTML = "<table><tr><td>Товар</td><td>Price</td></tr><tr><td>Чай</td><td>3.50</td></tr></table>"
FORMULA_TEXT = " $$  E=mc^{2}  $$ "

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 2, 16
VISION: dict[str, object] = {
    "model_type": "paddleocr_vl",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 56,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}

# The question comes last (the released template ends in "Assistant: "): the last prompt token tells the tasks apart.
CHAT_TEMPLATE = (
    "{%- for m in messages -%}" + CLS + "User: "
    "{%- for c in m['content'] if c['type'] == 'image' -%}" + IMAGE_START + IMAGE + IMAGE_END + "{%- endfor -%}"
    "{%- for c in m['content'] if c['type'] == 'text' -%}{{ c['text'] }}{%- endfor -%}"
    "{%- endfor -%}"
)

# The classes of PP-DocLayoutV2 and V3, in the order of their ids.
LABELS = (
    "abstract",
    "algorithm",
    "aside_text",
    "chart",
    "content",
    "display_formula",
    "doc_title",
    "figure_title",
    "footer",
    "footer_image",
    "footnote",
    "formula_number",
    "header",
    "header_image",
    "image",
    "inline_formula",
    "number",
    "paragraph_title",
    "reference",
    "reference_content",
    "seal",
    "table",
    "text",
    "vertical_text",
    "vision_footnote",
)
LAYOUT_SIZE = 64  # the released models take 800 x 800
ORIENTATION_SIZE = 64


@dataclass(frozen=True)
class Box:
    """A detection: `box` is x1, y1, x2, y2 as fractions of the page's width and height."""

    label: str
    score: float
    box: tuple[float, float, float, float]


FIGURE = (0.10, 0.69, 0.45, 0.88)  # the same on light and dark pages; on dark ones the table contains it
UNUSED = Box("text", 0.0, (0.0, 0.0, 0.01, 0.01))  # below any threshold
# In reading order.
LIGHT_BOXES = (
    Box("doc_title", 0.95, (0.10, 0.03, 0.90, 0.10)),
    Box("text", 0.93, (0.10, 0.13, 0.90, 0.33)),
    Box("table", 0.92, (0.10, 0.36, 0.90, 0.56)),
    Box("display_formula", 0.91, (0.25, 0.59, 0.75, 0.66)),
    Box("image", 0.90, FIGURE),
    Box("number", 0.80, (0.47, 0.94, 0.53, 0.98)),
)
DARK_BOXES = (
    Box("text", 0.94, (0.10, 0.05, 0.90, 0.25)),
    Box("text", 0.93, (0.10, 0.35, 0.90, 0.55)),
    Box("table", 0.92, (0.05, 0.62, 0.95, 0.93)),
    Box("image", 0.90, FIGURE),
    UNUSED,
    UNUSED,
)


@dataclass(frozen=True)
class TinyModels:
    """The model folders."""

    vlm: Path
    layout: Path
    orientation: Path
    unwarping: Path


def make_tiny_models(folder: Path, *, scripted: bool = True) -> TinyModels:
    """Write all models below `folder` (5 MB, 5 s). Unless `scripted`, the VLM's answers are random and endless."""
    models = TinyModels(folder / "vlm", folder / "layout", folder / "orientation", folder / "unwarping")
    for path in (models.vlm, models.layout, models.orientation, models.unwarping):
        path.mkdir(parents=True, exist_ok=True)
    with _quiet_paddle():
        _write_vlm(models.vlm, scripted=scripted)
        _write_layout(models.layout)
        _write_orientation(models.orientation)
        _write_unwarping(models.unwarping)
    return models


@contextlib.contextmanager
def _quiet_paddle() -> Iterator[None]:
    """Hush what Paddle says on stderr on its first import and whenever a model is built."""
    logger = logging.getLogger("paddlex")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("GLOG_minloglevel", "2")
        warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
        import paddlex.inference  # noqa: F401  (sets the logger's level)

        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """Train sentencepiece on throw-away text. Returns the id of each piece."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    rng = random.Random(0)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;()+-=/"
    alphabet += "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
    words = ("".join(rng.choices(alphabet, k=rng.randint(1, 9))) for _ in range(400 * 12))
    corpus = [" ".join(itertools.islice(words, 12)) for _ in range(400)]
    answers = list(itertools.chain.from_iterable(SCRIPT.values()))
    if len(set(answers)) < len(answers):
        raise ValueError("a scripted piece appears twice")
    control = [CLS, IMAGE_START, IMAGE, IMAGE_END]
    scripted = [piece.replace(" ", SPACE) for piece in (*SCRIPT, *answers)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=700,
        hard_vocab_limit=False,
        model_type="unigram",
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=control + scripted,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "tokenizer.vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]

    fast = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", SPACE)
    fast.pre_tokenizer = pre_tokenizers.Sequence([])
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = (UNK, BOS, EOS, *control)
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast.add_tokens([AddedToken(piece, normalized=True) for piece in scripted])
    fast.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizerFast",
            "processor_class": "PaddleOCRVLProcessor",
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": UNK,
            "pad_token": UNK,
            "cls_token": CLS,
            "image_token": IMAGE,
            "add_bos_token": False,
            "add_eos_token": False,
            "additional_special_tokens": control,
            "legacy": True,
            "model_max_length": 131072,
            "clean_up_tokenization_spaces": False,
        },
    )
    return {piece.replace(SPACE, " "): i for i, (piece, _) in enumerate(vocabulary)}


def _weights(config: dict[str, Any], ids: dict[str, int], *, scripted: bool) -> dict[str, NDArray[np.float32]]:
    """Weights in Hugging Face's names and layout: a linear weight is [out, in]."""
    from paddlex.inference.models.doc_vlm.modeling import PaddleOCRVLForConditionalGeneration
    from paddlex.inference.models.doc_vlm.modeling.paddleocr_vl._config import PaddleOCRVLConfig

    model = PaddleOCRVLForConditionalGeneration(PaddleOCRVLConfig(**config))
    transposed = set(model.get_transpose_weight_keys())
    rng = np.random.default_rng(0)
    state: dict[str, NDArray[np.float32]] = {}
    for name, tensor in model.get_hf_state_dict().items():
        shape = tuple(tensor.shape)[::-1] if name in transposed else tuple(tensor.shape)
        if "norm" in name.rsplit(".", 2)[-2] and name.endswith("weight"):
            state[name] = np.ones(shape, np.float32)
        elif name.endswith("bias"):
            state[name] = np.zeros(shape, np.float32)
        else:
            state[name] = rng.normal(0, 0.02, shape).astype(np.float32)
    if scripted:
        _write_script(state, ids)
    return state


def _write_script(state: dict[str, NDArray[np.float32]], ids: dict[str, int]) -> None:
    for name, weight in state.items():
        if name.startswith("model.layers") and ("o_proj" in name or "down_proj" in name):
            weight[:] = 0
    chains = [[ids[piece] for piece in (prompt, *answer, EOS)] for prompt, answer in SCRIPT.items()]
    steps = list(itertools.chain.from_iterable(itertools.pairwise(chain) for chain in chains))
    if len(steps) > HIDDEN:
        raise ValueError("raise HIDDEN: each scripted token needs an axis of its own")
    embedding, head = state["model.embed_tokens.weight"], state["lm_head.weight"]
    for axis, (token, successor) in enumerate(steps):
        embedding[token], head[:, axis] = 0, 0
        embedding[token, axis] = head[successor, axis] = 1


def _write_vlm(folder: Path, *, scripted: bool) -> None:
    from safetensors.numpy import save_file

    ids = _write_tokenizer(folder)
    tokens = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[UNK]}
    config: dict[str, Any] = {
        "architectures": ["PaddleOCRVLForConditionalGeneration"],
        "model_type": "paddleocr_vl",
        "vocab_size": len(ids),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
        "use_bias": False,
        "use_cache": True,
        "image_token_id": ids[IMAGE],
        "vision_start_token_id": ids[IMAGE_START],
        "vision_end_token_id": ids[IMAGE_END],
        "video_token_id": len(ids) + 1,
        **tokens,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": VISION,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"_from_model_config": False, "use_cache": True, **tokens})
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "PaddleOCRVLImageProcessor",
            "processor_class": "PaddleOCRVLProcessor",
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "rescale_factor": 1 / 255,
            "min_pixels": 112896,
            "max_pixels": 1003520,
            "size": {"shortest_edge": 112896, "longest_edge": 1003520},
            "patch_size": 14,
            "merge_size": 2,
            "temporal_patch_size": 1,
            "resample": 3,
        },
    )
    _write_json(folder / "processor_config.json", {"processor_class": "PaddleOCRVLProcessor"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    # The file is read for every local model, but only for its check of the name: without one, the folder serves v1,
    # v1.5 and v1.6.
    (folder / "inference.yml").write_text("Global: {}\n", encoding="utf-8")
    save_file(_weights(config, ids, scripted=scripted), folder / "model.safetensors", metadata={"format": "pt"})


def _write_layout(folder: Path) -> None:
    import paddle

    def rows(boxes: Sequence[Box]) -> Any:
        table = [[LABELS.index(box.label), box.score, *box.box, order] for order, box in enumerate(boxes)]
        return paddle.to_tensor(table, dtype="float32")

    class FixedBoxes(paddle.nn.Layer):
        """Returns boxes [sum(n), 7] (class, score, x1, y1, x2, y2, order), n [pages] and masks [sum(n), h, w]."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("light", rows(LIGHT_BOXES))
            self.register_buffer("dark", rows(DARK_BOXES))
            self.gain = self.create_parameter([1])  # a static model needs one parameter

        def forward(self, im_shape: Any, image: Any, scale_factor: Any) -> tuple[Any, Any, Any]:
            n, mask_size = len(LIGHT_BOXES), LAYOUT_SIZE // 4
            hw = im_shape / scale_factor  # size of the page itself
            ones = hw[:, :1] * 0 + 1
            scale = paddle.concat([ones, ones, hw[:, 1:], hw[:, :1], hw[:, 1:], hw[:, :1], ones], axis=1)
            brightness = image.mean(axis=[1, 2, 3]) + self.gain * 0
            is_light = (brightness >= 0.5).astype("float32").reshape([-1, 1, 1])
            boxes = (is_light * self.light + (1 - is_light) * self.dark) * scale.unsqueeze(1)
            boxes = boxes.reshape([-1, 7])
            counts = (brightness * 0 + n).astype("int32")
            masks = paddle.ones([1, mask_size, mask_size]) + boxes[:, :1].unsqueeze(2) * 0
            return boxes, counts, masks.astype("int32")

    spec = paddle.static.InputSpec
    size = [LAYOUT_SIZE, LAYOUT_SIZE]
    inputs = [
        spec([None, 2], "float32", "im_shape"),
        spec([None, 3, *size], "float32", "image"),
        spec([None, 2], "float32", "scale_factor"),
    ]
    config = {
        "Global": {},  # no name: serves V2 and V3
        "arch": "DETR",
        "mode": "paddle",
        "draw_threshold": 0.5,
        "label_list": list(LABELS),
        "Preprocess": [
            {"type": "Resize", "interp": 2, "keep_ratio": False, "target_size": size},
            {"type": "NormalizeImage", "mean": [0.0] * 3, "std": [1.0] * 3, "norm_type": "none"},
            {"type": "Permute"},
        ],
    }
    _save_static(folder, FixedBoxes(), inputs, config)


def _write_orientation(folder: Path) -> None:
    import paddle

    strip = ORIENTATION_SIZE // 8
    edges = np.zeros((4, 3, ORIENTATION_SIZE, ORIENTATION_SIZE), np.float32)  # masks of the top, right, bottom and left
    edges[0, :, :strip, :] = edges[1, :, :, -strip:] = edges[2, :, -strip:, :] = edges[3, :, :, :strip] = 1
    edges /= edges[0].sum()

    class DarkestEdge(paddle.nn.Layer):
        """Returns the scores [pages, 4] of 0, 90, 180 and 270 degrees (clockwise) from pages [pages, 3, h, w]."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("edges", paddle.to_tensor(edges))
            # A page counts as upright until another edge is clearly darker than the top one.
            self.register_buffer("upright", paddle.to_tensor([0.2, 0.0, 0.0, 0.0]))
            self.gain = self.create_parameter([1])

        def forward(self, x: Any) -> Any:
            # Not a matmul: oneDNN's fails now and then when the calls come from different threads.
            darkness = ((1 - x.unsqueeze(1)) * self.edges).sum(axis=[2, 3, 4])
            return paddle.nn.functional.softmax(10 * (darkness + self.upright) + self.gain * 0)

    size = [ORIENTATION_SIZE, ORIENTATION_SIZE]
    inputs = [paddle.static.InputSpec([None, 3, *size], "float32", "x")]
    config = {
        "Global": {"model_name": "PP-LCNet_x1_0_doc_ori"},
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"size": size}},
                {"NormalizeImage": {"mean": [0.0] * 3, "std": [1.0] * 3, "scale": 1 / 255, "order": ""}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"Topk": {"topk": 1, "label_list": ["0", "90", "180", "270"]}},
    }
    _save_static(folder, DarkestEdge(), inputs, config)


def _write_unwarping(folder: Path) -> None:
    import paddle

    class Identity(paddle.nn.Layer):
        """Returns pages [1, 3, h, w] as they are."""

        def __init__(self) -> None:
            super().__init__()
            self.gain = self.create_parameter([1])

        def forward(self, image: Any) -> Any:
            half_a_level = 0.5 / 255  # the pixels are cut, not rounded, to integers afterwards
            return image + self.gain * 0 + half_a_level

    inputs = [paddle.static.InputSpec([None, 3, None, None], "float32", "image")]
    _save_static(folder, Identity(), inputs, {"Global": {"model_name": "UVDoc"}})


def _save_static(folder: Path, net: Any, inputs: list[Any], config: dict[str, Any]) -> None:
    """Write a static graph (inference.json, .pdiparams) and its inference.yml."""
    import paddle

    net.eval()
    paddle.jit.save(net, str(folder / "inference"), input_spec=inputs)
    (folder / "inference.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--random", action="store_true", help="random weights, no scripted answers")
    arguments = parser.parse_args()
    make_tiny_models(arguments.out, scripted=not arguments.random)


if __name__ == "__main__":
    main()

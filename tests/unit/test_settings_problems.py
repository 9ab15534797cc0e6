"""What `make serve` says about settings that are not valid: one clause for each, in the words of docs/configuration.md."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.cli.settings_problems import settings_problems
from serve_app.settings import Settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"jobs": {"replica": 2}}, "jobs.replica: is not a known setting; did you mean 'replicas'?"),
        ({"zzz": 1}, "zzz: is not a known setting"),
        (
            {"engines": [{"name": "tesseract", "replicas": {"min": 4, "max": 2}}]},
            "engines.0.tesseract.replicas: 'min' is greater than 'max'",
        ),
        (
            {"raster": {"replicas": {"min": 4}}},
            "raster.replicas: the rasterizer needs a 'max'",
        ),
        (
            {"engines": [{"name": "tesseract", "replicas": 0}]},
            "engines.0.tesseract.replicas: should be greater than or equal to 1",
        ),
        (
            {"engines": [{"name": "tesseract", "replicas": "two"}]},
            "engines.0.tesseract.replicas: should be a valid integer, unable to parse string as an integer",
        ),
        (
            {"engines": [{"name": "other"}]},
            "engines.0: name 'other' is not one of 'tesseract', 'paddleocr-vl', 'dummy'",
        ),
        ({"engines": [{"languages": ["rus"]}]}, "engines.0: name is missing"),
        ({"store": {"kind": "ftp"}}, "store: kind 'ftp' is not one of 'folder', 's3'"),
        ({"store": {"kind": "s3"}}, "store.s3.bucket: is missing"),
        ({"jobs": 2}, "jobs: should be a valid dictionary"),
        ({"engines": []}, "engines: should have at least 1 item"),
    ],
)
def test_each_mistake_is_named_once_without_the_words_of_a_library(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(settings)
    assert settings_problems(caught.value) == expected


def test_several_mistakes_are_all_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"jobs": {"replica": 2}, "limits": {"page_s": "x"}})
    assert settings_problems(caught.value) == (
        "limits.page_s: should be a valid number, unable to parse string as a number; "
        "jobs.replica: is not a known setting; did you mean 'replicas'?"
    )

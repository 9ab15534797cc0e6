"""Secrets, and values that replace settings, from the environment. They are read once, when the graph is built."""

from __future__ import annotations

import os
import re
from typing import Any

from pydantic import Field, SecretStr, model_validator

from serve_app.settings.service import Settings
from serve_app.settings.strict import Strict


def with_environment(settings: Settings) -> Settings:
    """Replace the settings that the environment overrides: call it where the graph is built. Raises ValidationError."""
    overrides: dict[str, Any] = {}
    if surfaces := os.environ.get("OCR_OPEN_SURFACES"):
        overrides["open_surfaces"] = tuple(name for name in re.split(r"[\s,]+", surfaces) if name)
    if public_url := os.environ.get("OCR_PUBLIC_URL"):
        overrides["public_url"] = public_url
    return Settings.model_validate({**settings.model_dump(), **overrides})


class Secrets(Strict):
    """Values that must not be in a config file. They come from the environment of the process that builds the graph."""

    api_keys: SecretStr | None = Field(
        None,
        description="API keys, comma-separated, each `name=key` or `key`. Unset: a key is generated at the first start",
    )
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key id for the store. Unset: boto3's default chain (environment, profile, instance role)",
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, description="Secret access key for the store. Unset: boto3's default chain"
    )

    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret for signing webhooks: `whsec_` followed by base64, or any text. Unset: webhooks are refused",
    )
    vlm_api_key: SecretStr | None = Field(None, description="API key for the inference server")

    @model_validator(mode="after")
    def _check_s3_keys(self) -> Secrets:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("set both of OCR_S3_ACCESS_KEY_ID and OCR_S3_SECRET_ACCESS_KEY, or neither")
        return self

    @classmethod
    def from_environment(cls) -> Secrets:
        values = {name: os.environ.get(f"OCR_{name.upper()}") for name in cls.model_fields}
        return cls(**{name: SecretStr(value) for name, value in values.items() if value})

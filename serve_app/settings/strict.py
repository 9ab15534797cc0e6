"""The base of all settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Settings that refuse unknown names and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""A number of replicas that follows the load."""

from __future__ import annotations

from pydantic import Field, model_validator

from serve_app.settings.strict import Strict


class ReplicaRange(Strict):
    """A number of replicas that follows the pages waiting and running, between `min` and `max`."""

    min: int = Field(
        1,
        ge=0,
        description="Fewest replicas. 0 (engines only): none while there are no pages; the next page starts one and waits for it",
    )
    max: int | None = Field(
        None, ge=1, description="Most replicas. Unset (engines only): as many as Ray's CPUs or GPUs allow"
    )
    target_wait_s: float = Field(
        2,
        gt=0,
        description="Replicas are added while a page would wait longer than about this, in seconds. A larger value needs fewer replicas",
    )
    upscale_delay_s: float = Field(
        5, ge=0, description="How long more replicas must be needed before they start, in seconds"
    )
    downscale_delay_s: float = Field(
        120, ge=0, description="How long fewer replicas must be enough before some stop, in seconds"
    )

    @model_validator(mode="after")
    def _check_range(self) -> ReplicaRange:
        if self.max is not None and self.min > self.max:
            raise ValueError("'min' is greater than 'max'")
        return self

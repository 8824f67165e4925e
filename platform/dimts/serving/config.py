"""What `dimts serve` is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dimts.core.config import Config
from dimts.core.home import shipped
from dimts.tracking.config import TrackingConfig, is_in_mlflow


class ServingConfig(Config):
    """Settings of the service.

    Attributes:
        model: what speaks: the folder of a bundle or a run, here or in object storage, or a URI of
            MLflow. An alias, such as ``models:/NAME@champion``, is followed when it moves.
        vocoder: what makes waves of its mels, as of `dimts.load`.
        tracking: where MLflow is.
        follow_every_s: pause between two looks at the alias, in seconds.
        replicas: processes that speak, with one thread each.
        replica_cpus: cores that Ray reserves for each.
        max_replicas: more than `replicas` start and end with the load up to this number; the same
            number if None.
        grow_after_s, shrink_after_s: how long there must have been too much, or too little, to do
            before the number changes, in seconds.
        concurrent: requests that a replica works on in turn, chunk by chunk.
        queue: requests that wait for a replica; further ones are refused with 429.
        retry_after_s: what those are told to wait, in seconds.
        max_chars: of a request's text.
        timeout_s: the longest that a request may take, in seconds; queue and sending included.
        body_timeout_s: the longest that a request's head, and then its body, may take to arrive,
            in seconds.
    """

    model: str = Field(min_length=1)
    vocoder: str | None = None
    tracking: TrackingConfig = TrackingConfig()
    follow_every_s: float = Field(15.0, ge=0.1)
    replicas: int = Field(1, ge=1, le=1000)
    replica_cpus: float = Field(1.0, gt=0, le=1)
    max_replicas: int | None = Field(None, ge=1, le=1000)
    grow_after_s: float = Field(30.0, ge=0)
    shrink_after_s: float = Field(600.0, ge=0)
    concurrent: int = Field(4, ge=1, le=64)
    queue: int = Field(16, ge=0, le=10_000)
    retry_after_s: int = Field(1, ge=0, le=3600)
    max_chars: int = Field(5000, ge=1, le=1_000_000)
    timeout_s: float = Field(120.0, gt=0)
    body_timeout_s: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas: must not be less than replicas")
        return self

    @property
    def max_body(self) -> int:
        """Bytes of a request: each character may be written as two escapes of six bytes."""
        return 12 * self.max_chars + 4096

    def absolute(self) -> ServingConfig:
        """The same settings for a process that starts in another folder."""
        return self.model_copy(
            update={
                "model": _absolute(self.model),
                "vocoder": self.vocoder and _absolute(self.vocoder),
                "tracking": self.tracking.absolute(),
            }
        )


def _absolute(place: str) -> str:
    if is_in_mlflow(place):
        return place
    found = shipped(place)
    return str(Path(found).absolute()) if os.path.exists(found) else place

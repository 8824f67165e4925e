"""Settings of the sections `corpus` and `prepare`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dimts.audio.trim import TrimConfig
from dimts.core.config import Config
from dimts.storage.paths import AnyPath


class CorpusConfig(Config):
    """Where the recordings and their texts are."""

    path: AnyPath = Field(description="folder of the corpus, here or in object storage")
    reader: Literal["ljspeech"] = Field("ljspeech", description="format of the corpus")
    language: str | None = Field(
        None, min_length=1, description="what is spoken; that of text.language if not given"
    )
    speaker: str = Field("speaker", min_length=1, description="who speaks")


class PrepareConfig(Config):
    """How a corpus becomes features, and where they go."""

    features: AnyPath = Field(description="folder the features go to, here or in object storage")
    trim: TrimConfig = TrimConfig()
    min_seconds: float = Field(0.3, gt=0, description="shortest speech, silence trimmed")
    max_seconds: float = Field(20.0, gt=0, description="longest recording, silence included")
    min_frames_per_token: float = Field(
        2.0, ge=1, description="a text with fewer frames for each token cannot be aligned"
    )
    max_seconds_per_token: float = Field(
        1.0, gt=0, description="a recording that is longer for its text says something else"
    )
    val_share: float = Field(0.05, ge=0, lt=0.5, description="share of the utterances")
    test_share: float = Field(0.05, ge=0, lt=0.5, description="share of the utterances")
    shard_mb: float = Field(128, gt=0, description="mel in one Arrow file, MB at most")
    engine: Literal["auto", "ray", "pool", "local"] = Field(
        "auto",
        description="local: in this process; pool: processes of this machine; auto: Ray if it is "
        "running, else the quicker of the two",
    )
    workers: int | None = Field(None, ge=1, description="processes; one a CPU if not given")
    # Between two tasks a worker of Ray Data waited 50 ms or more (two cores of a Xeon), and 32
    # utterances took it 80 ms: two workers did the work of one. 256 take 0.6 s.
    chunk: int = Field(
        256, ge=1, description="utterances in one task at most, and lost by a kill: half a second"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_seconds >= self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} must be below max_seconds {self.max_seconds:g}"
            )
        if self.engine == "local" and self.workers is not None:
            raise ValueError("workers has no effect with engine: local")
        return self

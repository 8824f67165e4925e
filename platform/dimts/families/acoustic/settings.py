"""What a training of the acoustic family needs to know."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.audio.mel import MelConfig
from dimts.core.config import Config
from dimts.families.acoustic.extension.config import BaseConfig
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.training_config import AcousticTrainingConfig
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig
from dimts.training.config import RunSettings


class Source(Config):
    """One set of features to learn from.

    Attributes:
        features: folder that data preparation wrote, here or in object storage.
        text: what its texts must have been normalised with.
    """

    features: AnyPath
    text: TextConfig


class AcousticSettings(RunSettings):
    """One training of a voice.

    Attributes:
        sources: sets of features, of one language or of several.
        mel: what the features must have been made with.
        model, training: sizes and the loop.
        base: the voice to start from; None starts from nothing.
    """

    family: str = "acoustic"
    sources: tuple[Source, ...] = Field(min_length=1)
    mel: MelConfig
    model: ModelConfig
    training: AcousticTrainingConfig
    base: BaseConfig | None = None

    @model_validator(mode="after")
    def _one_new_language(self) -> Self:
        if self.base and len(self.sources) > 1:
            raise ValueError("sources: a base is adapted to one set of features")
        return self

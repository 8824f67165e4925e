"""What a training of the vocoder family needs to know."""

from __future__ import annotations

from pydantic import Field

from dimts.audio.mel import MelConfig
from dimts.audio.pitch import PitchConfig
from dimts.families.protocol import BaseSection
from dimts.families.vocoder.model.config import ModelConfig
from dimts.families.vocoder.training_config import VocoderTrainingConfig
from dimts.storage.paths import AnyPath
from dimts.training.config import RunSettings


class VocoderSettings(RunSettings):
    """One training of a vocoder.

    Attributes:
        features: prepared sets, one or several.
        mel, pitch: what they must have been made with.
        model, training: sizes and the loop.
        base: the vocoder to start from; None starts from nothing.
    """

    family: str = "vocoder"
    features: tuple[AnyPath, ...] = Field(min_length=1)
    mel: MelConfig
    pitch: PitchConfig
    model: ModelConfig
    training: VocoderTrainingConfig
    base: BaseSection | None = None

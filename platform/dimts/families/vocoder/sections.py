"""What a person writes for a vocoder: corpus, mel, features, model, training, base."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.audio.mel import MelConfig
from dimts.audio.pitch import PitchConfig
from dimts.families.protocol import Sections
from dimts.families.vocoder.model.config import ModelConfig
from dimts.families.vocoder.training_config import VocoderTrainingConfig
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig


def check_mel(mel: MelConfig) -> None:
    """Refuse a mel that the generator's spectra do not fit.

    Raises:
        ValueError: its hop is no multiple of 4.
    """
    if mel.hop_length % 4:
        raise ValueError(f"mel.hop_length ({mel.hop_length}) must be a multiple of 4 for a vocoder")


class VocoderSections(Sections):
    """Corpus, features, model and training of a vocoder.

    Attributes:
        corpus, text: of the recordings that `dimts prepare` reads.
        mel: what the vocoder takes; that of the voices it is for.
        pitch: how F0 is found in recordings.
        prepare: where the features go.
        features: prepared sets to learn from; that of `prepare` if none are named.
        model, training: sizes and the loop.
    """

    corpus: CorpusConfig
    text: TextConfig
    mel: MelConfig = MelConfig()
    pitch: PitchConfig = PitchConfig()
    prepare: PrepareConfig
    features: tuple[AnyPath, ...] = Field(())
    model: ModelConfig = ModelConfig()
    training: VocoderTrainingConfig = VocoderTrainingConfig()

    @model_validator(mode="after")
    def _mel_fits(self) -> Self:
        check_mel(self.mel)
        return self

"""Recordings as a column of the features, beside mel and F0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dimts.audio.mel import Float32Array, MelConfig
from dimts.audio.pitch import PitchConfig
from dimts.core.config import Config
from dimts.features.pitch_extractor import PitchExtractor, PitchSettings
from dimts.features.schema import Arrays, Column, Extract, Resources

INT16 = 32768
"""Full scale."""


class WaveSettings(Config):
    """What the samples of an utterance depend on.

    Attributes:
        sample_rate: Hz.
    """

    sample_rate: int


@dataclass(frozen=True)
class WaveExtractor:
    """The speech itself, int16 [S]; see `Extractor`."""

    settings: WaveSettings
    name = "wave"
    version = 1
    unit = "samples"
    resources = Resources()
    columns = (Column(name="wave", dtype="int16"),)

    @property
    def sample_rate(self) -> int:
        return self.settings.sample_rate

    def open(self) -> Extract:
        """Nothing has to be loaded."""
        return _samples


def extractors_of(mel: MelConfig, pitch: PitchConfig) -> tuple[WaveExtractor, PitchExtractor]:
    """Those that fit a mel."""
    rate, hop = mel.sample_rate, mel.hop_length
    return (
        WaveExtractor(WaveSettings(sample_rate=rate)),
        PitchExtractor(PitchSettings(tracker=pitch, sample_rate=rate, hop_length=hop)),
    )


def _samples(wave: Float32Array, sample_rate: int) -> Arrays:
    pcm = np.clip(np.rint(wave * INT16), -INT16, INT16 - 1)
    return {"wave": pcm.astype(np.int16)}

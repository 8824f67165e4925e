"""Recordings as a column of the features, beside mel and F0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dimts.audio.mel import Float32Array
from dimts.core.config import Config
from dimts.features.schema import Arrays, Column, PlainExtractor

INT16 = 32768
"""Full scale."""


class WaveSettings(Config):
    """What the samples of an utterance depend on.

    Attributes:
        sample_rate: Hz.
    """

    sample_rate: int


@dataclass(frozen=True)
class WaveExtractor(PlainExtractor):
    """The speech itself, int16 [S]; see `Extractor`."""

    settings: WaveSettings
    name = "wave"
    version = 1
    unit = "samples"
    columns = (Column(name="wave", dtype="int16"),)

    def extract(self, wave: Float32Array, sample_rate: int) -> Arrays:
        pcm = np.clip(np.rint(wave * INT16), -INT16, INT16 - 1)
        return {"wave": pcm.astype(np.int16)}

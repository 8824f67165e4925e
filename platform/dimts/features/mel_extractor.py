"""The mel of an utterance as a column of its features."""

from __future__ import annotations

from dataclasses import dataclass

from dimts.audio.mel import Float32Array, MelConfig, log_mel
from dimts.features.schema import Arrays, Column, PlainExtractor


@dataclass(frozen=True)
class MelExtractor(PlainExtractor):
    """Natural-log mel, float32 [T, n_mels]; see `Extractor`."""

    settings: MelConfig
    name = "mel"
    version = 3
    unit = "frames"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The mel, whose mean and standard deviation the model normalises with."""
        shape = (self.settings.n_mels,)
        return (Column(name="mel", dtype="float32", shape=shape, statistics=True),)

    def extract(self, wave: Float32Array, sample_rate: int) -> Arrays:
        assert sample_rate == self.sample_rate
        return {"mel": log_mel(wave, self.settings)}

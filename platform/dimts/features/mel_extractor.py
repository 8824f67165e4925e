"""The mel of an utterance as a column of its features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dimts.audio.mel import Float32Array, MelConfig, log_mel
from dimts.features.schema import Arrays, Column, Extract, Resources


@dataclass(frozen=True)
class MelExtractor:
    """Natural-log mel, float32 [T, n_mels]; see `Extractor`."""

    settings: MelConfig
    name = "mel"
    version = 3
    unit = "frames"
    resources = Resources()

    @property
    def sample_rate(self) -> int:
        """That of the mel."""
        return self.settings.sample_rate

    @property
    def columns(self) -> tuple[Column, ...]:
        """The mel, whose mean and standard deviation the model normalises with."""
        shape = (self.settings.n_mels,)
        return (Column(name="mel", dtype="float32", shape=shape, statistics=True),)

    def open(self) -> Extract:
        """Nothing has to be loaded."""
        return partial(_extract, self.settings)


def _extract(settings: MelConfig, wave: Float32Array, sample_rate: int) -> Arrays:
    assert sample_rate == settings.sample_rate
    return {"mel": log_mel(wave, settings)}

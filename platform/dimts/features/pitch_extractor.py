"""The F0 of an utterance as a column of its features."""

from __future__ import annotations

from dataclasses import dataclass

from dimts.audio.mel import Float32Array, MelConfig
from dimts.audio.pitch import PitchConfig, track_pitch
from dimts.core.config import Config
from dimts.features.schema import Arrays, Column, PlainExtractor


class PitchSettings(Config):
    """What the F0 of an utterance depends on."""

    tracker: PitchConfig = PitchConfig()
    sample_rate: int  # Hz
    hop_length: int  # samples between frames


@dataclass(frozen=True)
class PitchExtractor(PlainExtractor):
    """F0 of each frame of the mel in Hz, float32 [T], 0 where nothing is voiced."""

    settings: PitchSettings
    name = "pitch"
    version = 1
    unit = "frames"
    columns = (Column(name="f0", dtype="float32"),)

    @classmethod
    def of(cls, mel: MelConfig, tracker: PitchConfig | None = None) -> PitchExtractor:
        """One whose frames are those of a mel."""
        rate, hop = mel.sample_rate, mel.hop_length
        return cls(
            PitchSettings(tracker=tracker or PitchConfig(), sample_rate=rate, hop_length=hop)
        )

    def extract(self, wave: Float32Array, sample_rate: int) -> Arrays:
        own = self.settings
        return {"f0": track_pitch(wave, sample_rate, own.hop_length, own.tracker)}

"""Mel-cepstral distortion against the recording, as the acoustic family measures it."""

from __future__ import annotations

from collections.abc import Sequence

import soxr

from dimts.audio.mel import MelConfig, log_mel
from dimts.evaluation.judges.judge import Clip, Float32Array, Judge, Scores
from dimts.evaluation.judges.metrics import WAVE_MCD
from dimts.evaluation.mcd import mel_cepstral_distortion

MEL = MelConfig()


class Distortion(Judge):
    """`dimts.evaluation.mcd` of the mels of clip and recording, with the default mel."""

    name = "distortion"
    needs_reference = True

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [{WAVE_MCD.name: self._distortion(clip)} for clip in clips]

    def _distortion(self, clip: Clip) -> float:
        assert clip.reference is not None
        ours, theirs = (self._mel_of(w, clip.sample_rate) for w in (clip.wave, clip.reference))
        return mel_cepstral_distortion(ours, theirs)

    def _mel_of(self, wave: Float32Array, rate: int) -> Float32Array:
        if rate != MEL.sample_rate:
            wave = soxr.resample(wave, rate, MEL.sample_rate, quality="HQ")
        return log_mel(wave, MEL)

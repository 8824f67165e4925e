"""Mel-cepstral distortion against the recording, as the acoustic family measures it."""

from __future__ import annotations

from collections.abc import Sequence

from dimts.audio.mel import MelConfig, log_mel
from dimts.evaluation.judges.judge import Clip, Judge, Scores, resampled
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
        waves = (
            resampled(w, clip.sample_rate, MEL.sample_rate) for w in (clip.wave, clip.reference)
        )
        return mel_cepstral_distortion(*(log_mel(wave, MEL) for wave in waves))

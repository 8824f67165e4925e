"""Pitch: how high, how lively, and how close to the recording's, by SwiftF0 (Nieradzik 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import librosa
import numpy as np
from numpy.typing import NDArray

from dimts.audio.mel import MelConfig, log_mel
from dimts.evaluation.judges.judge import JUDGE_RATE, Clip, Float32Array, Judge, Scores
from dimts.evaluation.judges.metrics import F0_MEAN, F0_SPREAD, LOG_F0_RMSE
from dimts.evaluation.mcd import cepstra

MIN_HZ, MAX_HZ = 55.0, 550.0
VOICED = 0.5
"""Confidence from which a frame is voiced, as the tracker was calibrated."""
MEL = MelConfig(sample_rate=JUDGE_RATE, n_fft=1024, hop_length=256, f_max=8000.0)
"""Of the cepstra that are aligned: a frame of it is one of the tracker, 16 ms."""


class Pitch(Judge):
    """Mean and spread of F0 over the voiced frames; against the recording, the root of the mean
    squared difference of natural-log F0 over the pairs of voiced frames along the path that
    dynamic time warping finds between mel cepstra."""

    name = "pitch"

    def load(self) -> None:
        self._tracker = self.package("swift_f0").SwiftF0(threads=1, spin=False)

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [self._score(clip) for clip in clips]

    def track(self, wave: Float32Array) -> NDArray[np.float64]:
        """F0 in Hz of each 16 ms of a wave at `JUDGE_RATE`, [T]; 0 where it is unvoiced."""
        found = self._tracker.detect(wave, JUDGE_RATE, MIN_HZ, MAX_HZ)
        return np.where(found.confidence >= VOICED, found.pitch_hz, 0.0)

    def _score(self, clip: Clip) -> Scores:
        f0_T = self.track(clip.wave_16k)
        voiced = f0_T[f0_T > 0]
        scores: Scores = {}
        if len(voiced):
            semitones = 12 * np.log2(voiced)
            scores |= {F0_MEAN.name: float(voiced.mean()), F0_SPREAD.name: float(semitones.std())}
        if clip.reference_16k is not None:
            recorded_T = self.track(clip.reference_16k)
            # The mel has one frame more than the tracker.
            pairs = _path(clip.wave_16k, clip.reference_16k)
            ours = f0_T[np.minimum(pairs[:, 0], len(f0_T) - 1)]
            theirs = recorded_T[np.minimum(pairs[:, 1], len(recorded_T) - 1)]
            both = (ours > 0) & (theirs > 0)
            if both.any():
                apart = np.log(ours[both] / theirs[both])
                scores[LOG_F0_RMSE.name] = float(np.sqrt(np.mean(apart**2)))
        return scores


def _path(ours: Float32Array, theirs: Float32Array) -> NDArray[np.int64]:
    """Frames of two waves that belong together, [n, 2]."""
    a, b = (cepstra(log_mel(wave, MEL)) for wave in (ours, theirs))
    _, path = librosa.sequence.dtw(a.T, b.T)
    return np.asarray(path[::-1], np.int64)

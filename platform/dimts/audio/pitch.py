"""F0 of speech: the autocorrelation method of Boersma (1993), on one core."""

from __future__ import annotations

from typing import Self

import numba
import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dimts.audio.mel import Float32Array
from dimts.core.config import Config

PERIODS = 3
"""Of the lowest F0, in a window."""
CANDIDATES = 14
SECOND = 0.01
"""Costs of changes are for frames so far apart, in seconds."""
CHUNK_FRAMES = 256


class PitchConfig(Config):
    """How F0 is found.

    Attributes:
        f_min, f_max: Hz.
        silence: share of the loudest sample below which a frame is hardly voiced.
        voicing: strength of the autocorrelation from which on a frame is voiced.
        octave: cost of each octave that a candidate is lower.
        octave_jump: of each octave between two frames.
        change: of becoming voiced or ceasing to be.
    """

    f_min: float = Field(60.0, gt=0)
    f_max: float = Field(520.0, gt=0)
    silence: float = Field(0.03, ge=0)
    voicing: float = Field(0.35, gt=0, lt=1)
    octave: float = Field(0.01, ge=0)
    octave_jump: float = Field(0.5, ge=0)
    change: float = Field(0.14, ge=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min:g} must be below f_max {self.f_max:g}")
        return self


DEFAULT = PitchConfig()


def track_pitch(
    wave: Float32Array, sample_rate: int, hop_length: int, c: PitchConfig = DEFAULT
) -> Float32Array:
    """F0 in Hz of each frame, float32 [1 + n_samples // hop_length], 0 where nothing is voiced.

    Frame t is centred on sample ``t * hop_length``, as those of the mel are. The autocorrelation
    of a window is divided by that of the window itself; of its peaks a path is chosen that is
    strong and does not jump. The wave is float32 [n_samples] in [-1, 1].
    """
    n_window = int(PERIODS * sample_rate / c.f_min) // 2 * 2
    n_fft = 2 ** int(np.ceil(np.log2(1.5 * n_window)))
    window = np.hanning(n_window + 1)[:-1].astype(np.float32)
    own = _autocorrelation(window[None], n_fft)[0]
    shortest = int(sample_rate / c.f_max)
    longest = min(int(np.ceil(sample_rate / c.f_min)) + 1, n_window // 2)
    n_frames = 1 + len(wave) // hop_length
    padded = np.pad(wave, (n_window // 2, n_window // 2 + hop_length))
    loudest = max(float(np.abs(wave - wave.mean()).max()), 1e-9)
    lags = np.zeros((n_frames, CANDIDATES + 1), np.float32)
    strengths = np.full((n_frames, CANDIDATES + 1), -np.inf, np.float32)
    all_frames = np.lib.stride_tricks.sliding_window_view(padded, n_window)[::hop_length]
    for start in range(0, n_frames, CHUNK_FRAMES):
        here = slice(start, min(start + CHUNK_FRAMES, n_frames))
        frames = all_frames[here] - all_frames[here].mean(axis=1, keepdims=True)
        middle = frames[:, n_window // PERIODS : -n_window // PERIODS]
        peaks = np.abs(middle).max(axis=1) / loudest
        ratio = _autocorrelation(frames * window, n_fft)[:, : longest + 2] / own[: longest + 2]
        quiet = 2 - peaks * (1 + c.voicing) / max(c.silence, 1e-9)
        strengths[here, 0] = c.voicing + np.maximum(0, quiet)
        _find_candidates(
            ratio.astype(np.float32), shortest, longest, sample_rate / c.f_min, c.octave,
            0.5 * c.voicing, lags[here], strengths[here],
        )  # fmt: skip
    scale = SECOND * sample_rate / hop_length
    path = _best_path(lags, strengths, c.octave_jump * scale, c.change * scale)
    lag_T = np.take_along_axis(lags, path[:, None], 1)[:, 0]
    return np.where(lag_T > 0, sample_rate / np.maximum(lag_T, 1), 0).astype(np.float32)


def _autocorrelation(frames: npt.NDArray[np.float32], n_fft: int) -> npt.NDArray[np.float64]:
    """Normalised to 1 at no lag; of a frame without sound it is 0."""
    power = np.square(np.abs(np.fft.rfft(frames, n_fft)))
    correlation = np.fft.irfft(power)
    return correlation / np.maximum(correlation[:, :1], 1e-12)


@numba.njit(cache=True, nogil=True)
def _find_candidates(
    ratio: Float32Array, shortest: int, longest: int, slowest: float, octave: float, least: float,
    lags: Float32Array, strengths: Float32Array,
) -> None:  # fmt: skip
    """Peaks of each frame, the strongest ones, at 1 and above; 0 is that nothing is voiced."""
    for t in range(len(ratio)):
        r = ratio[t]
        for lag in range(max(shortest, 2), longest + 1):
            if r[lag] < least or r[lag] < r[lag - 1] or r[lag] <= r[lag + 1]:
                continue
            slope = 0.5 * (r[lag + 1] - r[lag - 1])
            bend = 2 * r[lag] - r[lag - 1] - r[lag + 1]
            at = lag + slope / bend
            height = r[lag] + 0.5 * slope * slope / bend
            if height > 1:  # of what is periodic within a sample
                height = 1 / height
            strength = height - octave * np.log2(at / slowest)
            weakest = 1 + np.argmin(strengths[t, 1:])
            if strength > strengths[t, weakest]:
                strengths[t, weakest] = strength
                lags[t, weakest] = at


@numba.njit(cache=True, nogil=True)
def _best_path(
    lags: Float32Array, strengths: Float32Array, jump: float, change: float
) -> npt.NDArray[np.int64]:
    """The candidate of each frame on the path of the greatest sum (Viterbi)."""
    n_frames, n = lags.shape
    best = strengths[0].astype(np.float64)
    came = np.zeros((n_frames, n), np.int64)
    total = np.empty(n)
    for t in range(1, n_frames):
        for k in range(n):
            total[k] = -np.inf
            if not np.isfinite(strengths[t, k]):
                continue
            for p in range(n):
                cost = 0.0
                if (lags[t, k] > 0) != (lags[t - 1, p] > 0):
                    cost = change
                elif lags[t, k] > 0:
                    cost = jump * abs(np.log2(lags[t, k] / lags[t - 1, p]))
                if best[p] - cost > total[k]:
                    total[k] = best[p] - cost
                    came[t, k] = p
            total[k] += strengths[t, k]
        best[:] = total
    path = np.zeros(n_frames, np.int64)
    path[-1] = np.argmax(best)
    for t in range(n_frames - 1, 0, -1):
        path[t - 1] = came[t, path[t]]
    return path

"""Where speech begins and ends in a recording, judged against its own noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dimts.audio.mel import Float32Array
from dimts.core.config import Config

HOP_SECONDS = 0.01
HOPS_PER_FRAME = 4

_FLOOR_FRAMES = 20
"""The quietest 0.2 s of a recording."""
_STEADY_DB = 6.0
"""Those frames are noise if they are as loud as each other; in clean speech they are not."""
_ABOVE_FLOOR_DB = 6.0
_BELOW_PEAK_DB = 15.0
"""Speech is never taken for noise where it is not this far below the loudest frame."""


class TrimConfig(Config):
    """How silence at both ends is cut off."""

    enabled: bool = True
    top_db: float = Field(
        default=40.0,
        gt=0,
        le=120,
        description="quieter than the loudest: silence; so is what is close to steady noise",
    )
    keep_seconds: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="silence kept at either end; twice that where noise hides quiet ends of speech",
    )


class Activity(NamedTuple):
    """Which frames of a wave speak; frame i is centred at sample `i * hop`.

    Attributes:
        hop: samples between frames.
        power: mean square of each frame of 40 ms, float64 [n_frames].
        speaks: bool [n_frames].
        noise: mean square of steady noise; 0 if none is found.
        is_masked: whether that noise, not `top_db`, decides what speaks.
    """

    hop: int
    power: NDArray[np.float64]
    speaks: NDArray[np.bool_]
    noise: float
    is_masked: bool


def find_speech(wave: Float32Array, sample_rate: int, top_db: float) -> Activity:
    """Frames within `top_db` of the loudest one that are not close to the noise floor.

    The floor is the level of the quietest 0.2 s, if that is steady: clean recordings are judged
    by `top_db` alone.

    Args:
        wave: float32 [n_samples], at least one sample.
    """
    hop = max(1, round(HOP_SECONDS * sample_rate))
    n_frames, half = 1 + len(wave) // hop, HOPS_PER_FRAME // 2
    padded = np.zeros((n_frames + HOPS_PER_FRAME - 1) * hop, np.float32)
    padded[half * hop : half * hop + len(wave)] = wave
    hops = padded.reshape(-1, hop)
    hop_power = np.einsum("ij,ij->i", hops, hops).astype(np.float64) / (HOPS_PER_FRAME * hop)
    power = np.convolve(hop_power, np.ones(HOPS_PER_FRAME), mode="valid")
    loudest, noise = power.max(), _noise_floor(power)
    quiet = loudest * 10 ** (-top_db / 10)
    masked = noise * 10 ** (_ABOVE_FLOOR_DB / 10)
    threshold = max(quiet, min(masked, loudest * 10 ** (-_BELOW_PEAK_DB / 10)))
    return Activity(hop, power, power > threshold, noise, masked > quiet)


def trim_silence(wave: Float32Array, sample_rate: int, config: TrimConfig) -> tuple[int, int]:
    """First sample of a wave, float32 [n_samples], to keep and the one after the last.

    Nothing is cut from a wave without any energy, nor when `enabled` is false.
    """
    if not config.enabled or not len(wave):
        return 0, len(wave)
    return trimmed(find_speech(wave, sample_rate, config.top_db), len(wave), sample_rate, config)


def trimmed(
    activity: Activity, n_samples: int, sample_rate: int, config: TrimConfig
) -> tuple[int, int]:
    """`trim_silence` of a wave of which is known where it speaks."""
    speaks = np.flatnonzero(activity.speaks)
    if not config.enabled or not len(speaks):
        return 0, n_samples
    keep = round(config.keep_seconds * (1 + activity.is_masked) * sample_rate)
    end = (int(speaks[-1]) + 1) * activity.hop + keep
    return max(0, int(speaks[0]) * activity.hop - keep), min(n_samples, end)


def _noise_floor(power: NDArray[np.float64]) -> float:
    """Mean square of steady noise, 0 if there is none; frames at both edges hold zeros."""
    inner = power[HOPS_PER_FRAME // 2 : -(HOPS_PER_FRAME // 2)]
    if len(inner) < _FLOOR_FRAMES:
        return 0.0
    quietest = np.sort(np.partition(inner, _FLOOR_FRAMES - 1)[:_FLOOR_FRAMES])
    steady = quietest[-1] < quietest[0] * 10 ** (_STEADY_DB / 10)
    return float(quietest.mean()) if steady else 0.0

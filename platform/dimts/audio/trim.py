"""Where speech begins and ends in a recording."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dimts.audio.mel import Float32Array
from dimts.core.config import Config

HOP_SECONDS = 0.01
HOPS_PER_FRAME = 4


class TrimConfig(Config):
    """How silence at both ends is cut off."""

    enabled: bool = True
    top_db: float = Field(
        default=40.0, gt=0, le=120, description="quieter than the loudest: silence"
    )
    keep_seconds: float = Field(default=0.05, ge=0, le=10, description="silence kept at either end")


def trim_silence(wave: Float32Array, sample_rate: int, config: TrimConfig) -> tuple[int, int]:
    """First sample of a wave, float32 [n_samples], to keep and the one after the last.

    A frame (40 ms, every 10 ms) speaks if its energy is within `top_db` of the loudest frame's.
    Nothing is cut from a wave without any energy, nor when `enabled` is false.
    """
    if not config.enabled or not len(wave):
        return 0, len(wave)
    hop = max(1, round(HOP_SECONDS * sample_rate))
    n_frames, half = 1 + len(wave) // hop, HOPS_PER_FRAME // 2
    padded = np.zeros((n_frames + HOPS_PER_FRAME - 1) * hop, np.float32)
    padded[half * hop : half * hop + len(wave)] = wave
    hops = padded.reshape(-1, hop)
    hop_energy = np.einsum("ij,ij->i", hops, hops, dtype=np.float64)
    energy = np.convolve(hop_energy, np.ones(HOPS_PER_FRAME), mode="valid")
    speaks = np.flatnonzero(energy > energy.max() * 10 ** (-config.top_db / 10))
    if not len(speaks):
        return 0, len(wave)
    keep = round(config.keep_seconds * sample_rate)
    end = (int(speaks[-1]) + 1) * hop + keep
    return max(0, int(speaks[0]) * hop - keep), min(len(wave), end)

"""What any decoder's samples are held to: limits of a header, channels mixed to one, cut bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from dimts.audio.mel import Float32Array

MAX_SECONDS = 600.0
MAX_RECORDING_SECONDS = 12 * 3600.0
"""Of a recording of which parts are read."""
MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000
SILENT_PEAK = 1e-4  # three steps of 16 bits
UNKNOWN_FRAMES = 1 << 62  # libsndfile's word for "the header does not say" is near 2^63

CANCELLED_SHARE = 0.02
"""Of the energy that channels with nothing in common would leave; speech and its copy turned upside
down leave none, ordinary stereo leaves more than all of it."""

_SLACK_SECONDS = 0.05
"""That a part may end after its recording: tables of times are rounded."""


class AudioError(Exception):
    """An audio file that cannot be used.

    `reason` is one word for counting: empty, undecodable, bad_sample_rate, too_long, truncated,
    not_finite, out_of_range, channels_cancel, silent, outside (of a recording of which a part is
    wanted), needs_pyav (which is not installed). `detail` says what is the matter with this file.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{detail} ({reason})")
        self.reason = reason
        self.detail = detail


def check_header(sample_rate: int, frames: int, max_seconds: float) -> None:
    """Refuse what a header promises.

    Raises:
        AudioError: the rate is out of range, or there are no frames or too many.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        detail = f"{sample_rate} Hz is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        raise AudioError("bad_sample_rate", detail)
    if frames == 0:
        raise AudioError("empty", "holds no samples")
    if max_seconds * sample_rate < frames < UNKNOWN_FRAMES:
        raise AudioError("too_long", f"{frames / sample_rate:.0f} s, at most {max_seconds:g} s")


def end_within(start: float, end: float, seconds: float) -> float:
    """The end of a part of a recording of so many seconds; infinity is where that ends.

    Raises:
        AudioError: the part is not inside.
    """
    if seconds < end < seconds + _SLACK_SECONDS or end == math.inf:
        end = seconds
    if not 0 <= start < end <= seconds:
        raise AudioError("outside", f"{start:g} to {end:g} s is not inside its {seconds:.2f} s")
    return end


def mix(blocks: Iterable[Float32Array], sample_rate: int, max_seconds: float) -> Float32Array:
    """The mean of the channels of blocks [n_samples, n_channels], float32 [n_samples].

    Raises:
        AudioError: there are more than `max_seconds`, or the channels cancel each other.
    """
    limit = int(max_seconds * sample_rate)
    mixed = [np.empty(0, np.float32)]
    n_samples, n_channels, energy, loudest = 0, 1, 0.0, 0.0
    for block in blocks:
        n_samples += len(block)
        if n_samples > limit:
            raise AudioError("too_long", f"more than {max_seconds:g} s")
        n_channels = block.shape[1]
        if n_channels == 1:
            mixed.append(block.reshape(-1))
            continue
        loudest = max(loudest, peak_of(block))
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are refused later
            mixed.append(block.mean(axis=1))
            energy += _energy(block)
    wave = np.concatenate(mixed)
    left = CANCELLED_SHARE * energy / n_channels**2
    if loudest >= SILENT_PEAK and _energy(wave) < left:
        detail = f"its {n_channels} channels cancel each other when mixed to one"
        raise AudioError("channels_cancel", detail)
    return wave


def peak_of(wave: Float32Array) -> float:
    """Largest magnitude, NaN if any sample is; cheaper than through a copy of magnitudes."""
    return float(np.maximum(wave.max(), -wave.min()))


def _energy(wave: Float32Array) -> float:
    flat = wave.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))

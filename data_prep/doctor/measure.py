"""Measures of one recording: level, noise, clipping, bandwidth."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np

from dimts.audio.cleaning import decibels
from dimts.audio.files import Decoded
from dimts.audio.mel import Float32Array
from dimts.audio.trim import TrimConfig, find_speech

NOISY_SNR_DB = 20
"""A recording whose speech is less above its noise is a noisy one."""
_CLIPPED_RUN = 3
_FULL = 0.5
"""A peak below half of full scale is no clipping."""
_BAND_DB = 70.0
_FFT = 2048
_QUIETEST_DB = -120.0


class Measures(NamedTuple):
    """Of a recording as it is, before anything is cleaned.

    Attributes:
        sample_rate: Hz, of the file.
        loudness: RMS of the frames that speak, dBFS.
        snr: of those frames over the quietest 0.2 s, dB.
        clipped: share of samples in runs of at least three that touch the peak.
        bandwidth: Hz; above it the spectrum is 70 dB below its maximum.
        sha256: of the samples, in hexadecimal digits.
    """

    sample_rate: int
    loudness: float
    snr: float
    clipped: float
    bandwidth: float
    sha256: str


def measure(recording: Decoded) -> Measures:
    """Measure a recording at its own sample rate."""
    wave, rate = recording.wave, recording.sample_rate
    activity = find_speech(wave, rate, TrimConfig().top_db)
    speech = max(_QUIETEST_DB, decibels(float(activity.power[activity.speaks].mean())))
    inner = np.sort(activity.power[2:-2] if len(activity.power) > 24 else activity.power)
    noise = max(_QUIETEST_DB, decibels(float(inner[:20].mean())))
    return Measures(
        rate,
        speech,
        max(0.0, speech - noise),
        _clipped(wave + np.float32(recording.offset)),
        _bandwidth(wave, rate),
        hashlib.sha256(wave.tobytes()).hexdigest(),
    )


def _clipped(wave: Float32Array) -> float:
    share = 0.0
    for extreme in (wave.max(), wave.min()):
        if abs(extreme) < _FULL:
            continue
        touches = np.concatenate([[False], np.abs(wave - extreme) < 1e-4, [False]])
        first, last = np.flatnonzero(np.diff(touches.astype(np.int8))).reshape(-1, 2).T
        runs = last - first
        share += float(runs[runs >= _CLIPPED_RUN].sum()) / len(wave)
    return share


def _bandwidth(wave: Float32Array, sample_rate: int) -> float:
    n_frames = max(1, len(wave) // _FFT)
    padded = np.resize(np.pad(wave, (0, max(0, _FFT - len(wave)))), n_frames * _FFT)
    spectra = np.fft.rfft(padded.reshape(n_frames, _FFT) * np.hanning(_FFT))
    power = np.square(np.abs(spectra)).mean(axis=0)
    loud = np.flatnonzero(power > power.max() * 10 ** (-_BAND_DB / 10))
    return math.floor(loud[-1] * sample_rate / _FFT) if len(loud) else 0.0

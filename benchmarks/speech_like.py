"""Audio with the shape of speech, for tests and benchmarks on machines without recordings."""

from __future__ import annotations

import numpy as np

from dimts.audio.mel import Float32Array

_BANDWIDTHS_HZ = (80.0, 110.0, 160.0, 220.0)
_NOISE = 3e-4  # a quiet room, 70 dB below full scale


def speech_like(seconds: float, sample_rate: int = 22050, seed: int = 0) -> Float32Array:
    """Syllables of pulses or noise through formants, with pauses, float32 [n_samples].

    The same arguments give the same samples; the loudest is at 0.7.

    Args:
        seconds: how long.
        sample_rate: Hz, at least 9 kHz for the highest formant to fit.
        seed: of the "sentence".
    """
    rng = np.random.default_rng(seed)
    wave = np.zeros(round(seconds * sample_rate), np.float32)
    voice_hz = rng.uniform(90, 220)
    position = round(rng.uniform(0.1, 0.3) * sample_rate)
    end = len(wave) - round(0.1 * sample_rate)
    while position < end:
        length = round(rng.uniform(0.12, 0.28) * sample_rate)
        syllable = _syllable(length, sample_rate, voice_hz * rng.uniform(0.85, 1.2), rng)
        part = wave[position : min(position + length, end)]
        part += syllable[: len(part)]
        position += round(length * 0.9)
        if rng.random() < 0.12:
            position += round(rng.uniform(0.15, 0.4) * sample_rate)
    wave *= 0.7 / max(float(np.abs(wave).max()), 1e-6)
    wave += _NOISE * rng.standard_normal(len(wave), dtype=np.float32)
    return wave


def _syllable(
    length: int, sample_rate: int, voice_hz: float, rng: np.random.Generator
) -> Float32Array:
    """A consonant's noise running into a vowel of falling pitch, [length]."""
    from scipy.signal import lfilter

    glide = np.linspace(1.05, 0.92, length)
    phase = np.cumsum(voice_hz * glide / sample_rate)
    source = np.zeros(length)
    source[1:] = np.diff(np.floor(phase))
    onset = round(length * rng.uniform(0.1, 0.4))
    noise = rng.standard_normal(length) * rng.uniform(0.02, 0.3)
    source[:onset] = noise[:onset]
    source += 0.01 * noise
    formants_hz = (
        rng.uniform(250, 800),
        rng.uniform(850, 2300),
        rng.uniform(2300, 3000),
        rng.uniform(3300, 4000),
    )
    for formant_hz, bandwidth_hz in zip(formants_hz, _BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / sample_rate)
        turn = 2 * np.pi * formant_hz / sample_rate
        poles = [1.0, -2 * radius * np.cos(turn), radius * radius]
        source = lfilter([sum(poles)], poles, source)
    envelope = np.sin(np.linspace(0, np.pi, length)) ** 0.5 * rng.uniform(0.3, 1.0)
    return (source * envelope).astype(np.float32)

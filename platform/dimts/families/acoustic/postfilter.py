"""What a prediction loses of a mel's changes over time, put back without training.

A model that minimises the error predicts means, which change more slowly than speech does: the
faster a modulation, the more of it is gone. The energy of each modulation is measured in recorded
and in predicted mels, and predicted ones are filtered by the square root of their quotient, as
Takamichi et al. 2016 do for parameters of vocoders ("Postfilters to modify the modulation spectrum
for statistical parametric speech synthesis").
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

WINDOW, HOP = 64, 16
"""Frames of a window, Hann, and between windows."""
N_MODULATIONS = WINDOW // 2 + 1
MIN_GAIN, MAX_GAIN = 0.5, 4.0
_HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
_OVERLAP = WINDOW / HOP / 2
"""Sum of the windows over a frame."""


def modulation_energy(mels: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean energy by modulation frequency and cepstral coefficient, [N_MODULATIONS, M].

    Args:
        mels: natural-log, [T, M].
    """
    total, n_windows = 0.0, 0
    for mel_TM in mels:
        windows = _windows(dct(mel_TM.astype(np.float64), axis=1, norm="ortho"))
        spectrum = np.fft.rfft(windows * _HANN[:, None], axis=1)
        total = total + np.square(np.abs(spectrum)).sum(0)
        n_windows += len(windows)
    return np.asarray(total / n_windows)


def postfilter_gains(
    natural: Iterable[NDArray[np.float32]], predicted: Iterable[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """What predicted modulations are to be multiplied by, float32 [N_MODULATIONS, M].

    Args:
        natural: recorded mels, [T, M].
        predicted: of the same sentences; they need not be aligned.
    """
    ours = np.maximum(modulation_energy(predicted), 1e-12)
    gains = np.sqrt(modulation_energy(natural) / ours)
    return np.clip(gains, MIN_GAIN, MAX_GAIN).astype(np.float32)


def postfilter(
    mel_TM: NDArray[np.float32], gains: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """A predicted mel with its modulations multiplied by ``gains ** strength``, [T, M].

    The mean of each coefficient stays, and with it loudness and timbre.
    """
    if strength == 0:
        return mel_TM
    cepstrum = dct(mel_TM.astype(np.float64), axis=1, norm="ortho")
    mean = cepstrum.mean(0)
    windows = _windows(cepstrum - mean)
    spectrum = np.fft.rfft(windows * _HANN[:, None], axis=1) * gains.astype(np.float64) ** strength
    parts = np.fft.irfft(spectrum, WINDOW, axis=1)
    filtered = np.zeros(((len(parts) - 1) * HOP + WINDOW, mel_TM.shape[1]))
    for n, part in enumerate(parts):
        filtered[n * HOP : n * HOP + WINDOW] += part
    inside = filtered[WINDOW - HOP :][: len(mel_TM)] / _OVERLAP
    return idct(inside + mean, axis=1, norm="ortho").astype(np.float32)


def _windows(cepstrum_TM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlapping windows, [n, WINDOW, M], such that each frame is inside as many."""
    margin = WINDOW - HOP
    end = -len(cepstrum_TM) % HOP + margin
    padded = np.pad(cepstrum_TM, ((margin, end), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)[::HOP]
    return windows.transpose(0, 2, 1)

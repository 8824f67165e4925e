"""Mel-cepstral distortion along a dynamic-time-warping path.

The cepstrum is the orthonormal DCT-II of the natural-log magnitude mel, coefficients
1 to 13 (0 is loudness). With M bins the distance of two frames, in dB, is::

    20 / ln(10) * sqrt(sum((a - b)^2) / M)

that is, the spread in dB over the mel bins of the difference of two smoothed spectra. The
distortion is the mean over the path of the least summed distance. Other formulas in use
(Kubichek 1993 with its factor of sqrt(2) and WORLD cepstra) give other numbers: figures
are comparable only where the formula is.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

N_CEPSTRA = 13


def cepstra(log_mel_TM: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coefficients 1 to 13 of the orthonormal DCT-II of each frame, float32 [T, 13]."""
    n_bins = log_mel_TM.shape[1]
    k = np.arange(1, N_CEPSTRA + 1)[:, None]
    basis = np.sqrt(2 / n_bins) * np.cos(np.pi * k * (2 * np.arange(n_bins) + 1) / (2 * n_bins))
    return np.ascontiguousarray(log_mel_TM @ basis.T.astype(np.float32), np.float32)


@numba.njit(cache=True, nogil=True)
def _mean_along_path(a_TC, b_TC):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Mean distance along the path of least sum; steps by one frame in either or both."""
    n, m = len(a_TC), len(b_TC)
    cost = np.full((n + 1, m + 1), np.inf)  # with a row and a column before the first
    length = np.zeros((n + 1, m + 1), np.int64)
    cost[0, 0] = 0.0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            distance = 0.0
            for c in range(a_TC.shape[1]):
                difference = a_TC[i - 1, c] - b_TC[j - 1, c]
                distance += difference * difference
            best, steps = cost[i - 1, j - 1], length[i - 1, j - 1]
            if cost[i - 1, j] < best:
                best, steps = cost[i - 1, j], length[i - 1, j]
            if cost[i, j - 1] < best:
                best, steps = cost[i, j - 1], length[i, j - 1]
            cost[i, j] = best + np.sqrt(distance)
            length[i, j] = steps + 1
    return cost[n, m] / length[n, m]


def mel_cepstral_distortion(a_TM: NDArray[np.float32], b_TM: NDArray[np.float32]) -> float:
    """Distortion in dB between two natural-log magnitude mels of any lengths, [T, M] each.

    Raises:
        ValueError: the numbers of bins differ, or one of the two is empty.
    """
    if a_TM.shape[1] != b_TM.shape[1]:
        raise ValueError(f"mels of {a_TM.shape[1]} and {b_TM.shape[1]} bins do not compare")
    if not len(a_TM) or not len(b_TM):
        raise ValueError("an empty mel does not compare")
    decibels = 20 / np.log(10) / np.sqrt(a_TM.shape[1])
    return float(decibels * _mean_along_path(cepstra(a_TM), cepstra(b_TM)))

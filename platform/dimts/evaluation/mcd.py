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
    cost = np.full((2, m + 1), np.inf)  # of two frames; the path begins before the first ones
    length = np.zeros((2, m + 1), np.int64)
    cost[0, 0] = 0.0
    for i in range(n):
        last, now = i % 2, (i + 1) % 2
        for j in range(m):
            distance = 0.0
            for c in range(a_TC.shape[1]):
                difference = a_TC[i, c] - b_TC[j, c]
                distance += difference * difference
            best, steps = cost[last, j], length[last, j]
            if cost[last, j + 1] < best:
                best, steps = cost[last, j + 1], length[last, j + 1]
            if cost[now, j] < best:
                best, steps = cost[now, j], length[now, j]
            cost[now, j + 1] = best + np.sqrt(distance)
            length[now, j + 1] = steps + 1
        cost[last, 0] = np.inf
    return cost[n % 2, m] / length[n % 2, m]


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

"""Roughly where the sentences of a text are, from lengths alone: sounds between pauses, letters.

Dynamic programming over sentences and islands of sound. A sentence takes one island or several, or
is passed over, as islands are; its length in seconds is compared with its length in letters. That
is enough to begin with: most sentences are found, and what is learned from them finds the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

BAND_SECONDS = 900.0
"""Searched to either side of where a sentence would be if all were spoken evenly."""
MAX_ISLANDS = 16
"""Of a sentence."""
RATES = (0.7, 0.85, 1.0, 1.2, 1.45, 1.75, 2.1)
"""Letters a second that are tried, over what they are if all sound were speech."""
N_REFINED = 2

_NO_SENTENCE, _NO_ISLAND = 0.8, 0.3
_ISLAND_A_SECOND, _MAX_ISLAND = 0.5, 1.5
_TIME_SCALE, _MAX_TIME_COST = 5.0, 3.0
"""Of a time that is given: seconds that cost 1, and what a wrong one costs at most."""

Float64 = NDArray[np.float64]


class Rough(NamedTuple):
    """First island of each sentence and the one after its last, int64 [n, 2]; equal if none."""

    islands_N2: NDArray[np.int64]
    score: float


def find_roughly(letters_N: Float64, islands_I2: Float64, times_N: Float64) -> Rough:
    """Islands of sentences.

    Args:
        letters_N: length of each sentence, at least 1.
        islands_I2: seconds at which each island begins and ends, at least one.
        times_N: seconds at which a sentence begins as far as somebody says so, NaN: nobody does.
    """
    lengths = islands_I2[:, 1] - islands_I2[:, 0]
    even = letters_N.sum() / lengths.sum()
    found = max((_search(letters_N, islands_I2, times_N, even * r) for r in RATES), key=_score)
    for _ in range(N_REFINED):
        spoken = np.concatenate(([0.0], np.cumsum(lengths)))
        first, last = found.islands_N2.T
        there = last > first
        if there.sum() < 2:
            break
        rate = np.median(letters_N[there] / (spoken[last] - spoken[first])[there])
        found = max(found, _search(letters_N, islands_I2, times_N, float(rate)), key=_score)
    return found


def _score(found: Rough) -> float:
    return found.score


def _search(letters_N: Float64, islands_I2: Float64, times_N: Float64, rate: float) -> Rough:
    total = float(islands_I2[-1, 1])
    ends = np.cumsum(letters_N)
    centre = np.concatenate(([0.0], ends)) / ends[-1] * total
    known = np.append(times_N, np.nan)
    centre = np.maximum.accumulate(np.where(np.isnan(known), centre, known))
    low = np.searchsorted(islands_I2[:, 0], centre - BAND_SECONDS)
    high = np.searchsorted(islands_I2[:, 0], centre + BAND_SECONDS) + 1
    low[0], high[-1] = 0, len(islands_I2) + 1
    found, score = _dynamic(letters_N / rate, letters_N, islands_I2, times_N, low, high)
    return Rough(found, float(score))


@numba.njit(cache=True, nogil=True)
def _dynamic(
    expected_N: Float64,
    letters_N: Float64,
    islands_I2: Float64,
    times_N: Float64,
    low_N: NDArray[np.int64],
    high_N: NDArray[np.int64],
) -> tuple[NDArray[np.int64], float]:  # pragma: no cover - compiled
    """State (n, i): n sentences and i islands are behind; `low_N`, `high_N`: bounds of i."""
    n_sentences, n_islands = len(expected_N), len(islands_I2)
    width = 0
    for n in range(n_sentences + 1):
        width = max(width, high_N[n] - low_N[n])
    # 0: an island was passed over, -1: a sentence, k: a sentence took k islands.
    came_from = np.zeros((n_sentences + 1, width), np.int8)
    before = np.full(n_islands + 1, -1e30)
    here = np.full(n_islands + 1, -1e30)
    for n in range(n_sentences + 1):
        here[:] = -1e30
        for i in range(low_N[n], high_N[n]):
            best, code = -1e30, 0
            if n == 0 and i == 0:
                best = 0.0
            if i > low_N[n]:
                length = islands_I2[i - 1, 1] - islands_I2[i - 1, 0]
                best = here[i - 1] - min(_MAX_ISLAND, _NO_ISLAND + _ISLAND_A_SECOND * length)
            if n > 0:
                if before[i] - _NO_SENTENCE > best:
                    best, code = before[i] - _NO_SENTENCE, -1
                expected = expected_N[n - 1]
                deviation = 0.15 + 0.4 / np.sqrt(letters_N[n - 1])
                length, pauses = 0.0, 0.0
                for k in range(1, min(MAX_ISLANDS, i) + 1):
                    length += islands_I2[i - k, 1] - islands_I2[i - k, 0]
                    if k > 1:
                        pause = islands_I2[i - k + 1, 0] - islands_I2[i - k, 1]
                        pauses += max(-4.0, min(1.0, 1.4 - 3.75 * pause))
                    z = np.log(length / expected) / deviation
                    if z > 4:
                        break
                    fit = 0.2 - np.log(deviation) - 0.5 * z * z + pauses
                    if not np.isnan(times_N[n - 1]):
                        off = abs(islands_I2[i - k, 0] - times_N[n - 1])
                        fit -= min(_MAX_TIME_COST, off / _TIME_SCALE)
                    if before[i - k] + fit > best:
                        best, code = before[i - k] + fit, k
            here[i] = best
            came_from[n, i - low_N[n]] = code
        before, here = here, before
    found = np.zeros((n_sentences, 2), np.int64)
    n, i = n_sentences, n_islands
    score = before[i]
    while n > 0:
        code = came_from[n, i - low_N[n]]
        if code == 0:
            i -= 1
            if i < low_N[n]:
                break
        else:
            n -= 1
            i -= max(code, 0)
            found[n, 0], found[n, 1] = i, i + max(code, 0)
    return found, score

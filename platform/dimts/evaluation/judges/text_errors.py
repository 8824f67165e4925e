"""How far what was heard is from what was to be said, in letters and words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt


def comparable(text: str) -> str:
    """A text as it is compared: compatibility characters composed (NFKC), lower case, no
    punctuation, symbols or marks of format, single spaces.

    Apostrophes vanish without a space, other punctuation parts words.
    """
    letters = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(character)
        if character in "'’ʼ" or kind == "Cf":
            continue
        letters.append(character if kind[0] in "LMN" else " ")
    return " ".join("".join(letters).split())


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and substitutions that make one sequence of the other
    (Levenshtein 1966)."""
    numbers = {symbol: i for i, symbol in enumerate({*a, *b})}
    coded = (np.array([numbers[symbol] for symbol in s], np.int64) for s in (a, b))
    return int(_distance(*coded))


@numba.njit(cache=True, nogil=True)
def _distance(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    row = np.arange(len(b) + 1)
    for i in range(len(a)):
        diagonal, row[0] = row[0], i + 1
        for j in range(len(b)):
            best = min(row[j + 1] + 1, row[j] + 1, diagonal + (a[i] != b[j]))
            diagonal, row[j + 1] = row[j + 1], best
    return row[len(b)]

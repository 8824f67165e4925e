"""Two voices on the same sentences: how far apart they are, and whether one may follow the other.

Sentences differ far more than voices do, so the difference is taken sentence by sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dimts.core.config import Config
from dimts.families.acoustic.held_out import UtteranceFigures

DRAWS = 10_000
CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Mean of paired differences, with the 95 % bootstrap interval of it.

    Attributes:
        mean, low, high: in dB; below zero the first voice is the better one.
        utterances: that both spoke.
    """

    mean: float
    low: float
    high: float
    utterances: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


class Limits(Config):
    """What a voice has to keep to be promoted.

    Attributes:
        margin: dB by which its mean distortion must be below the champion's.
        max_forgetting: dB by which the distortion of the base's languages may rise.
        length_tolerance: share by which the total length may differ from the recorded one.
    """

    margin: float = Field(0.0, ge=0)
    max_forgetting: float = Field(0.5, ge=0)
    length_tolerance: float = Field(0.1, gt=0)


class Quality(NamedTuple):
    """Held-out figures of a voice that `objections` looks at.

    Attributes:
        mcd: mean, dB.
        length_ratio: total length / recorded.
        forgetting: change of the MCD of the base's languages, dB; None if not measured.
    """

    mcd: float
    length_ratio: float
    forgetting: float | None


def mcd_difference(
    ours: Sequence[UtteranceFigures], theirs: Sequence[UtteranceFigures]
) -> Difference:
    """Mel-cepstral distortion of one voice minus that of another, on the same utterances.

    Raises:
        ValueError: the utterances are not the same ones in the same order, or there are none.
    """
    if not ours or [f.id for f in ours] != [f.id for f in theirs]:
        raise ValueError("only figures of the same utterances compare")
    differences = np.array([a.mcd - b.mcd for a, b in zip(ours, theirs, strict=True)])
    low, high = bootstrap_interval(differences)
    return Difference(float(differences.mean()), low, high, len(differences))


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron 1979); the same for the same seed.

    Of a single value nothing is known: its interval is endless.

    Args:
        values: of the utterances, [n].
        seed: of the draws.
    """
    if len(values) < 2:
        return -np.inf, np.inf
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def objections(quality: Quality, difference: Difference | None, limits: Limits) -> list[str]:
    """Why a candidate is not promoted, one text a condition that failed; empty if it is.

    A figure that is not a number fails its condition.

    Args:
        quality: of the candidate.
        difference: candidate minus champion; None if there is no champion yet.
        limits: to be kept.
    """
    found = []
    if not np.isfinite(quality.mcd):
        found.append(f"its mean MCD is {quality.mcd}")
    elif difference and not difference.mean < -limits.margin:
        found.append(
            f"its mean MCD differs from the champion's by {difference.mean:+.3f} dB, "
            f"below {-limits.margin:+g} is asked for"
        )
    if not abs(quality.length_ratio - 1) <= limits.length_tolerance:
        found.append(
            f"it speaks {quality.length_ratio:.2f} times as long as recorded, "
            f"1 +- {limits.length_tolerance:g} is asked for"
        )
    if quality.forgetting is not None and not quality.forgetting <= limits.max_forgetting:
        found.append(
            f"the base's languages changed by {quality.forgetting:+.3f} dB, "
            f"at most {limits.max_forgetting:+g} is asked for"
        )
    return found

"""Two models on the same sentences: how far apart they are, and whether one is better.

Sentences differ far more than voices do, so the difference is taken sentence by sentence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dimts.core.metric import Metric
from dimts.families.protocol import Measured

DRAWS = 10_000
CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Mean of paired differences in the metric's unit, its 95 % bootstrap interval, and the number
    of utterances that both spoke."""

    mean: float
    low: float
    high: float
    utterances: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def paired_difference(ours: Measured, theirs: Measured) -> Difference:
    """The deciding metric of one model minus that of another, on the same utterances.

    Raises:
        ValueError: the utterances are not the same ones in the same order, or there are none.
    """
    if not len(ours.ids) or list(ours.ids) != list(theirs.ids):
        raise ValueError("only metrics of the same utterances compare")
    differences = ours.values - theirs.values
    low, high = bootstrap_interval(differences)
    return Difference(float(differences.mean()), low, high, len(differences))


def in_common(ours: Measured, theirs: Measured) -> tuple[Measured, Measured]:
    """Two models on the utterances that both have a value of: a judge may have none of some."""
    both = {*ours.ids} & {*theirs.ids}
    first, second = (
        one._replace(
            ids=[i for i in one.ids if i in both],
            values=one.values[[i in both for i in one.ids]],
        )
        for one in (ours, theirs)
    )
    return first, second


def not_better(metric: Metric, difference: Difference, margin: float) -> list[str]:
    """That a candidate is not better than the champion by a margin, in the metric's unit; empty if
    it is. `difference` is candidate minus champion."""
    side, wanted = ("below", -margin) if metric.direction == "minimize" else ("above", margin)
    if metric.better(difference.mean, wanted):
        return []
    unit = f" {metric.unit}" if metric.unit else ""
    return [
        f"its mean {metric.short or metric.label} differs from the champion's by "
        f"{difference.mean:+.3f}{unit}, {side} {wanted:+g} is asked for"
    ]


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron 1979); the same for the same seed.

    Of a single value nothing is known: its interval is endless.
    """
    if len(values) < 2:
        return -np.inf, np.inf
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)

"""Several systems rated side by side, after ITU-R BS.1534-3 (MUSHRA).

A trial is one sentence by all systems and, where there is one, its recording, the hidden reference;
the listener gives each clip 0 to 100 points. There is no anchor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from dimts.core.config import Config
from dimts.evaluation.answers import draws_of
from dimts.evaluation.listening import CONFIDENCE

REFERENCE = "the recording"
"""Stands for the hidden reference among the systems."""
HEARD, MISSED = 90, 0.15
"""Who gives the reference less points than that in more than this share of trials is left out."""
MAX_POINTS = 100
Points = Annotated[int, Field(ge=0, le=MAX_POINTS)]


class Screen(NamedTuple):
    """One sentence by several systems, in the order in which they are shown."""

    sentence: str
    systems: tuple[str, ...]


class Rating(Config):
    """What a listener gave the clips of a screen; one line of the file of ratings."""

    listener: str = Field(min_length=1, max_length=80)
    sentence: str
    systems: tuple[str, ...]
    points: tuple[Points, ...]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.systems) != len(self.points):
            raise ValueError(f"points: {len(self.points)} for {len(self.systems)} clips")
        return self

    @property
    def trial(self) -> Screen:
        """What was heard."""
        return Screen(self.sentence, self.systems)

    @property
    def of_system(self) -> dict[str, int]:
        """Points by system."""
        return dict(zip(self.systems, self.points, strict=True))


class Mean(NamedTuple):
    """Mean points of a system, or of its differences to another; 95 % interval; whose they are."""

    points: float
    low: float
    high: float
    listeners: int


def plan(
    listener: str, sentences: Sequence[str], systems: Sequence[str], n_sentences: int
) -> list[Screen]:
    """What a listener is to rate: all systems on `n_sentences`, drawn for them.

    In as many trials as there are systems each one stands once at every place.
    """
    rng = draws_of(listener)
    drawn = rng.permutation(len(sentences))[:n_sentences]
    screens = []
    for start in range(0, len(drawn), len(systems)):
        order, shifts = rng.permutation(len(systems)), rng.permutation(len(systems))
        for index, shift in zip(drawn[start : start + len(systems)], shifts, strict=False):
            shown = tuple(systems[n] for n in np.roll(order, shift))
            screens.append(Screen(sentences[index], shown))
    return screens


def reference_missed(ratings: Iterable[Rating]) -> list[str]:
    """Listeners who do not hear the hidden reference, so their ratings are not counted.

    They give it less than 90 points in more than 15 % of their trials (BS.1534-3, 4.1.2), or never
    rate any clip unlike it.
    """
    missed: dict[str, list[bool]] = defaultdict(list)
    differs: set[str] = set()
    for rating in ratings:
        if REFERENCE in rating.systems:
            missed[rating.listener].append(rating.of_system[REFERENCE] < HEARD)
            if len(set(rating.points)) > 1:
                differs.add(rating.listener)
    return [
        name for name, of in missed.items() if sum(of) > MISSED * len(of) or name not in differs
    ]


def rated(ratings: Iterable[Rating], system: str, other: str | None = None) -> Mean | None:
    """Mean points of a system, or of its difference to another on the same screens; None if it was
    not rated.

    Of several ratings of a sentence by a listener the last counts, and none of a listener of
    `reference_missed`. Each listener has the same weight: the interval is Student's, of the means
    of listeners; of a single listener it is that of their trials.
    """
    ratings = list(ratings)
    out = set(reference_missed(ratings))
    kept = {(r.listener, r.sentence): r for r in ratings if r.listener not in out}
    values: dict[str, list[float]] = defaultdict(list)
    for rating in kept.values():
        points = rating.of_system
        if system in points and (other is None or other in points):
            values[rating.listener].append(points[system] - (points[other] if other else 0))
    return _mean(values, 0 if other is None else -MAX_POINTS) if values else None


def _mean(values: Mapping[str, Sequence[float]], lowest: float) -> Mean:
    """Within the scale, from `lowest` to 100."""
    from scipy.stats import t

    units = [float(np.mean(of)) for of in values.values()]
    mean = float(np.mean(units))
    if len(units) == 1:
        units = list(*values.values())
    half = np.inf
    if (n := len(units)) > 1:
        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(np.std(units, ddof=1)) / n**0.5
    return Mean(mean, max(lowest, mean - half), min(MAX_POINTS, mean + half), len(values))

"""Blind comparison by listeners: who hears what in which order, and what their answers show.

A trial is one sentence, spoken by two systems; the listener prefers the first, the second, or
neither. The plan of a listener follows from their name alone, so it can be continued at any time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from dimts.core.config import Config
from dimts.evaluation.answers import draws_of

CONFIDENCE = 0.95
BLOCK = 4
"""Trials of a pair after which both orders have been heard equally often."""
ONE_SIDED = 0.01
"""A listener is left out if choices as one-sided as theirs are less likely than this by chance."""
Choice = Literal["first", "second", "same"]
SCORES: dict[Choice, float] = {"first": 1.0, "second": 0.0, "same": 0.5}
"""What an answer is worth to the first system; the second has the rest of 1."""


class Trial(NamedTuple):
    """One sentence by two systems, in the order in which they are heard."""

    sentence: str
    first: str
    second: str


class Answer(Config):
    """What a listener preferred; one line of the file of answers."""

    listener: str = Field(min_length=1, max_length=80)
    sentence: str
    first: str
    second: str
    choice: Choice

    @property
    def trial(self) -> Trial:
        """What was heard."""
        return Trial(self.sentence, self.first, self.second)


class Preference(NamedTuple):
    """How often listeners prefer one system to another.

    Attributes:
        one, other: the systems.
        share: of the answers, those that prefer `one`; an undecided one counts half.
        low, high: 95 % interval of the share.
        wins, losses, undecided: answers for `one`, for `other`, for neither.
        p_value: of the two-sided sign test; undecided answers are not counted.
        listeners: whose answers were counted.
    """

    one: str
    other: str
    share: float
    low: float
    high: float
    wins: int
    losses: int
    undecided: int
    p_value: float
    listeners: int


def plan(
    listener: str, sentences: Sequence[str], systems: Sequence[str], n_sentences: int
) -> list[Trial]:
    """What a listener is to hear: each pair of systems on `n_sentences`, drawn for them.

    In each `BLOCK` of a pair's trials both systems come first equally often, so a listener who
    stops early has heard balanced orders, too.
    """
    rng = draws_of(listener)
    trials: list[tuple[float, Trial]] = []
    for one, other in combinations(systems, 2):
        drawn = rng.permutation(len(sentences))[:n_sentences]
        n_blocks = -(-len(drawn) // BLOCK)
        swaps = np.concatenate([rng.permutation(BLOCK) % 2 for _ in range(n_blocks)] or [drawn])
        # Sorted by these, pairs alternate at random and the order within a pair stays.
        when = np.sort(rng.random(len(drawn)))
        for position, index, swap in zip(when, drawn, swaps, strict=False):
            order = (other, one) if swap else (one, other)
            trials.append((float(position), Trial(sentences[index], *order)))
    return [trial for _, trial in sorted(trials)]


def one_sided(answers: Iterable[Answer]) -> list[str]:
    """Listeners who click the same side whatever they hear, by a binomial test.

    As orders are balanced, even who always prefers one system chooses each side equally often.
    """
    from scipy.stats import binomtest

    sides: dict[str, list[Choice]] = defaultdict(list)
    for answer in answers:
        if answer.choice != "same":
            sides[answer.listener].append(answer.choice)
    return [
        name
        for name, chosen in sides.items()
        if binomtest(chosen.count("first"), len(chosen)).pvalue < ONE_SIDED
    ]


def counted(answers: Iterable[Answer]) -> list[Answer]:
    """Of several answers of a listener to a sentence by two systems the last one, and none of
    `one_sided` listeners."""
    answers = list(answers)
    out = set(one_sided(answers))
    kept = {
        (a.listener, a.sentence, frozenset((a.first, a.second))): a
        for a in answers
        if a.listener not in out
    }
    return list(kept.values())


def preference(answers: Iterable[Answer], one: str, other: str) -> Preference | None:
    """How often `one` is preferred to `other`; None if nobody has compared them.

    Only what is `counted`. The interval is the wider of Wilson's (1927), as if all answers were
    independent, and that of a share whose answers are clustered by listener (linearised variance,
    t of the listeners - 1).
    """
    from scipy.stats import binomtest, t

    kept = [a for a in counted(answers) if {a.first, a.second} == {one, other}]
    if not kept:
        return None
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in kept:
        score = SCORES[answer.choice]
        scores[answer.listener].append(score if answer.first == one else 1 - score)
    values = np.concatenate([np.array(of) for of in scores.values()])
    n, share = len(values), float(values.mean())
    wins, losses = int((values == 1).sum()), int((values == 0).sum())
    low, high = _wilson(share, n)
    if len(scores) > 1:
        residuals = np.array([sum(of) - share * len(of) for of in scores.values()])
        variance = len(scores) / (len(scores) - 1) * float(residuals @ residuals) / n**2
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)) * variance**0.5
        low, high = max(0.0, min(low, share - half)), min(1.0, max(high, share + half))
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    counts = (wins, losses, n - wins - losses)
    return Preference(one, other, share, low, high, *counts, p_value, len(scores))


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)

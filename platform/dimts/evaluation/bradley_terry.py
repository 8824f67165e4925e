"""Strengths of several systems from answers to pairs of them (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from dimts.evaluation.listening import CONFIDENCE, SCORES, Answer, counted

ITERATIONS, TOLERANCE = 100, 1e-10


class Strength(NamedTuple):
    """How a system stands among those compared.

    Attributes:
        system: its name.
        share: probability that it is preferred to one of mean strength (mean of log-odds).
        low, high: 95 % interval of the share.
    """

    system: str
    share: float
    low: float
    high: float


def strengths(answers: Iterable[Answer], systems: Sequence[str]) -> list[Strength]:
    """The strongest system first; none if nobody has compared them.

    Maximum likelihood of P(i preferred to j) = 1 / (1 + exp(s_j - s_i)) over the `counted` answers;
    an undecided one is half an answer for either. Each pair gets one undecided answer more, so that
    a system that always wins has a finite strength. The interval is the wider of that of
    independent answers and that of answers clustered by listener (sandwich variance, t of the
    listeners - 1).
    """
    from scipy.stats import norm, t

    place = {name: n for n, name in enumerate(systems)}
    kept = [a for a in counted(answers) if a.first in place and a.second in place]
    if not kept:
        return []
    ends = [(place[a.first], place[a.second]) for a in kept]
    one, other = np.array([*ends, *combinations(range(len(systems)), 2)]).T
    score = np.array([SCORES[a.choice] for a in kept] + [0.5] * (len(one) - len(kept)))
    design = np.eye(len(systems))[one] - np.eye(len(systems))[other]
    strength = np.zeros(len(systems))
    for _ in range(ITERATIONS):
        expected = 1 / (1 + np.exp(-design @ strength))
        information = (design.T * (expected * (1 - expected))) @ design
        # Of strengths whose sum is 0: the information on what all have in common is none.
        covariance = np.linalg.pinv(information, rcond=1e-9, hermitian=True)
        step = covariance @ (design.T @ (score - expected))
        strength += step
        if np.abs(step).max() < TOLERANCE:
            break
    names = list(dict.fromkeys(a.listener for a in kept))
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * np.sqrt(np.diag(covariance))
    if (n := len(names)) > 1:
        row = {name: n for n, name in enumerate(names)}
        gradients = np.zeros((n, len(systems)))
        residual = (score - expected)[: len(kept)]
        np.add.at(
            gradients, [row[a.listener] for a in kept], design[: len(kept)] * residual[:, None]
        )
        clustered = covariance @ (gradients.T @ gradients) @ covariance * n / (n - 1)
        quantile = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
        half = np.maximum(half, quantile * np.sqrt(np.diag(clustered)))
    found = [
        Strength(
            name, *(float(1 / (1 + np.exp(-value))) for value in (middle, middle - w, middle + w))
        )
        for name, middle, w in zip(systems, strength, half, strict=True)
    ]
    return sorted(found, key=lambda of: -of.share)

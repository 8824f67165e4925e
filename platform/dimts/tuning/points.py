"""What the pictures of a sweep show: points and lines, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from typing import NamedTuple

from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from dimts.tuning.outcomes import (
    FINISHED,
    STOPPED,
    curve,
    final,
    is_known_good,
    last,
    outcome,
    text,
)


class Point(NamedTuple):
    """An ended trial.

    Attributes:
        number: of the trial.
        value: of an objective; of a trial that was stopped its last; None if it has none.
        outcome: how it ended.
        known_good: its settings were given and not found.
    """

    number: int
    value: float | None
    outcome: str
    known_good: bool


class Strip(NamedTuple):
    """Trials that share a value of one parameter.

    Attributes:
        label: the value.
        finished, stopped: an objective of those that ran to their end and of those that were
            stopped early.
    """

    label: str
    finished: list[float]
    stopped: list[float]


def history(study: Study, objective: int = 0) -> list[Point]:
    """All trials that ended, in their order."""
    return [
        Point(trial.number, last(study, trial, objective), outcome(trial), is_known_good(trial))
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]


def best_so_far(study: Study, objective: int = 0) -> list[tuple[int, float]]:
    """Number of each trial that ran to its end, and the best value among it and those before."""
    better = max if is_maximized(study, objective) else min
    steps: list[tuple[int, float]] = []
    for point in history(study, objective):
        if point.outcome == FINISHED and point.value is not None:
            best = better(point.value, steps[-1][1]) if steps else point.value
            steps.append((point.number, best))
    return steps


def strips(study: Study, path: str, objective: int = 0) -> list[Strip]:
    """Trials by their value of a parameter: choices in the space's order, numbers ascending."""
    trials = [t for t in study.get_trials(deepcopy=False) if path in t.params]
    if not trials:
        return []
    distribution = trials[0].distributions[path]
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
    else:
        values = sorted({t.params[path] for t in trials})
    found = []
    for value in values:
        same = [t for t in trials if t.params[path] == value]
        reached = [final(t, objective) for t in same]
        stopped = [last(study, t, objective) for t in same if outcome(t) == STOPPED]
        found.append(
            Strip(
                text(value),
                [v for v in reached if v is not None],
                [v for v in stopped if v is not None],
            )
        )
    return found


def budget(study: Study) -> int:
    """Validations of a trial that ran to its end; 0 while there is none."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max((max(curve(trial), default=0) for trial in complete), default=0)


def good_limit(values: Sequence[float], maximize: bool = False) -> float | None:
    """The worst value that a picture's scale should reach; None without values.

    A few trials that went wrong would otherwise press all others into one line. Those further
    than three times the middle half's width from it are drawn at the border.
    """
    costs = sorted(-value if maximize else value for value in values)
    if not costs:
        return None
    limit = costs[-1]
    if len(costs) >= 5:
        low, _, high = quantiles(costs, n=4, method="inclusive")
        limit = max(cost for cost in costs if cost <= high + 3 * (high - low))
    return -limit if maximize else limit


def is_maximized(study: Study, objective: int) -> bool:
    """Whether more of an objective is better."""
    return study.directions[objective] == StudyDirection.MAXIMIZE

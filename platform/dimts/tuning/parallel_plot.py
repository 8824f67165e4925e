"""All trials of a sweep as lines through their settings to what they reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from dimts.tuning.canvas import EARLY, ENDED, finish, goals, new_figure
from dimts.tuning.outcomes import FINISHED, STOPPED, last, named, outcome, parameters, text
from dimts.tuning.points import good_limit, is_maximized
from dimts.tuning.report import front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNUSED = -0.14
"""Height, of an axis from 0 to 1, at which a line passes one that its trial does not have."""


class Axis(NamedTuple):
    """An upright axis.

    Attributes:
        name: in words.
        ticks: height and label of each mark.
        heights: of each trial, from 0 to 1; None if it does not have this.
        none: what None means.
    """

    name: str
    ticks: list[tuple[float, str]]
    heights: list[float | None]
    none: str


def shown(study: Study) -> list[FrozenTrial]:
    """Trials that ran to their end or were stopped, of which the first objective is known, worst
    first, so best are on top."""
    whole = (FINISHED, STOPPED)
    trials = [t for t in study.get_trials(deepcopy=False) if outcome(t) in whole]
    costs = {t.number: value for t in trials if (value := last(study, t, 0)) is not None}
    sign = -1 if is_maximized(study, 0) else 1
    known = [t for t in trials if t.number in costs]
    return sorted(known, key=lambda t: (outcome(t) == FINISHED, -sign * costs[t.number]))


def axes_of(study: Study) -> list[Axis]:
    """One axis for each parameter and one for each objective, with the heights of `shown`."""
    trials = shown(study)
    names = named(parameters(trials))
    found = [_parameter(trials, path, name) for path, name in names.items()]
    for n, goal in enumerate(goals(study)):
        values = [last(study, trial, n) for trial in trials]
        known = [value for value in values if value is not None]
        worst = good_limit(known, is_maximized(study, n))
        if worst is None:
            continue
        best = max(known) if is_maximized(study, n) else min(known)
        low, high = min(best, worst), max(best, worst)
        found.append(_numbers(goal, values, low, high, False, "not measured"))
    return found


def draw_parallel(study: Study) -> Figure | None:
    """Parallel coordinates; None before two trials ended."""
    if len(shown(study)) < 2:
        return None
    figure = new_figure(4.4)
    axes = figure.subplots()
    found = axes_of(study)
    for x, axis in enumerate(found):
        _draw_axis(axes, x, axis)
    _draw_lines(axes, study, found)
    axes.set_xticks(range(len(found)), [_folded(axis.name) for axis in found], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(found) - 0.6)
    axes.set_ylim(UNUSED - 0.06 if any(None in a.heights for a in found) else -0.05, 1.05)
    axes.spines[:].set_visible(False)
    return finish(figure, study, [axes])


def _parameter(trials: Sequence[FrozenTrial], path: str, name: str) -> Axis:
    values = [trial.params.get(path) for trial in trials]
    has = [path in trial.params for trial in trials]
    distributions = [t.distributions[path] for t in trials if path in t.distributions]
    if isinstance(distributions[-1], CategoricalDistribution):
        return _choices(name, values, has, list(distributions[-1].choices))
    low = min(_bound(d, "low") for d in distributions)
    high = max(_bound(d, "high") for d in distributions)
    log = bool(getattr(distributions[-1], "log", False))
    return _numbers(name, values, low, high, log, "not used")


def _bound(distribution: BaseDistribution, end: str) -> float:
    return float(getattr(distribution, end))


def _choices(name: str, values: Sequence[Any], has: Sequence[bool], choices: list[Any]) -> Axis:
    """Choices one above another; trials of the same are spread a little, in their order."""
    n = len(choices)
    ticks = [((i + 0.5) / n, text(choice)) for i, choice in enumerate(choices)]
    heights: list[float | None] = [
        (choices.index(value) + 0.5 + 0.4 * (0.5 - (k + 0.5) / len(values))) / n if here else None
        for k, (value, here) in enumerate(zip(values, has, strict=True))
    ]
    return Axis(name, ticks, heights, "not used")


def _numbers(
    name: str, values: Sequence[float | None], low: float, high: float, log: bool, none: str
) -> Axis:
    """A range, on a logarithmic scale if the search was; values beyond it are at its ends."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    def height(value: float) -> float:
        a, b, x = (math.log(v) for v in (low, high, value)) if log else (low, high, value)
        return min(max((x - a) / (b - a), 0.0), 1.0) if b > a else 0.5

    locator = LogLocator(subs=(1, 2, 5)) if log else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    inside = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    ticks = [(height(tick), text(tick, 3)) for tick in inside or [low]]
    heights = [None if v is None else height(min(max(v, low), high)) for v in values]
    return Axis(name, ticks, heights, none)


def _draw_axis(axes: Axes, x: int, axis: Axis) -> None:
    from matplotlib.patheffects import withStroke

    axes.vlines(x, 0, 1, color="#444444", linewidth=1, zorder=1)
    marks = list(axis.ticks)
    if None in axis.heights:
        marks.append((UNUSED, axis.none))
    for height, label in marks:
        axes.annotate(
            label, (x, height), xytext=(-5, 0), textcoords="offset points", ha="right",
            va="center", fontsize=8, zorder=5, annotation_clip=False,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _draw_lines(axes: Axes, study: Study, found: Sequence[Axis]) -> None:
    """Colour is the first objective: the better, the darker."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D

    trials, leaders = shown(study), {trial.number for trial in front(study)}
    values = [value for trial in trials if (value := last(study, trial, 0)) is not None]
    maximize = is_maximized(study, 0)
    worst, best = good_limit(values, maximize), max(values) if maximize else min(values)
    assert worst is not None
    norm = Normalize(min(best, worst), max(best, worst), clip=True)
    colours = ScalarMappable(norm, "viridis_r" if maximize else "viridis")
    for n, trial in enumerate(trials):
        heights = [axis.heights[n] for axis in found]
        places = [UNUSED if height is None else height for height in heights]
        complete, is_best = outcome(trial) == FINISHED, trial.number in leaders
        axes.plot(
            range(len(found)), places, color=colours.cmap(float(norm(values[n]))),
            linewidth=2.8 if is_best else 1.3, alpha=0.9 if complete else 0.25,
            zorder=3 if complete else 2, solid_joinstyle="round",
        )  # fmt: skip
    best_name = "best" if len(study.directions) == 1 else "on the Pareto front"
    for label, alpha, width in ((best_name, 0.9, 2.8), (ENDED, 0.9, 1.3), (EARLY, 0.25, 1.3)):
        axes.add_line(Line2D([], [], color="#333333", alpha=alpha, label=label, linewidth=width))
    axes.figure.colorbar(colours, ax=axes, label=goals(study)[0], pad=0.02, aspect=40)


def _folded(name: str) -> str:
    """A long name in several lines."""
    from textwrap import fill

    return fill(name, 14)

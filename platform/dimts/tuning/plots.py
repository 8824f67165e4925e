"""Pictures of a sweep, as PNG files sized for a README.

Optuna's own matplotlib plots go through pyplot, one global state for all threads, so these are
drawn here. What they show comes from `points`, and can be tested there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dimts.tuning.canvas import (
    BLUE,
    BROKEN,
    EARLY,
    ENDED,
    GREY,
    ORANGE,
    RED,
    SKY,
    dress,
    finish,
    goals,
    new_figure,
    scatter,
)
from dimts.tuning.outcomes import (
    FINISHED,
    RUNNING,
    STOPPED,
    curve,
    final,
    named,
    outcome,
    parameters,
)
from dimts.tuning.parallel_plot import draw_parallel
from dimts.tuning.points import (
    Strip,
    best_so_far,
    budget,
    good_limit,
    history,
    is_maximized,
    strips,
)
from dimts.tuning.report import front, importances

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

NUDGE_POINTS = 3
"""By how much at a time numbers that lie on others are moved, in points of print."""

FREEZING = (
    "model.freeze_until_index",
    "model.freeze_blocks.encoder",
    "model.freeze_blocks.decoder",
)


def write_plots(study: Study, folder: Path) -> list[Path]:
    """Draw what the study has enough for; a picture of an earlier call that it has not, goes.

    Args:
        study: of a sweep, at any time of it.
        folder: where the PNG files are put; it is made.

    Returns:
        The files written, of: history, importances, parallel, freeze_index, curves, pareto.
    """
    drawings: dict[str, Callable[[Study], Figure | None]] = {
        "history": draw_history,
        "importances": draw_importances,
        "parallel": draw_parallel,
        "freeze_index": draw_freezing,
        "curves": draw_curves,
        "pareto": draw_pareto,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        if (figure := draw(study)) is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, format="png")
        written.append(path)
    return written


def draw_history(study: Study) -> Figure | None:
    """Value of each ended trial over its number; None before one ended."""
    if not history(study):
        return None
    names = goals(study)
    figure = new_figure(1.1 + 2.6 * len(names))
    rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for n, axes in enumerate(rows):
        _draw_history(axes, study, n)
        axes.set_ylabel(names[n])
    rows[-1].set_xlabel("trial")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    return finish(figure, study, rows)


def _draw_history(axes: Axes, study: Study, objective: int) -> None:
    points, maximize = history(study, objective), is_maximized(study, objective)
    limit = good_limit([p.value for p in points if p.value is not None], maximize) or 0.0
    if steps := best_so_far(study, objective):
        numbers, best = zip(*steps, strict=True)
        xs, ys = [*numbers, points[-1].number], [*best, best[-1]]
        axes.step(xs, ys, where="post", color=ORANGE, label="best so far", linewidth=1.5)
    for word, marker, colour, label in (
        (FINISHED, "o", BLUE, ENDED),
        (STOPPED, "v", GREY, EARLY),
    ):
        mine = [(p.number, p.value) for p in points if p.outcome == word and p.value is not None]
        if mine:
            xs, ys = map(list, zip(*mine, strict=True))
            scatter(
                axes, xs, ys, limit, maximize, marker=marker, color=colour, s=34, label=label,
                zorder=2.5,
            )  # fmt: skip
    broken = [p for p in points if p.outcome not in (FINISHED, STOPPED)]
    if broken:
        places = [p.number for p in broken]
        axes.scatter(places, [limit] * len(broken), marker="x", color=RED, label=BROKEN)
    given = [(p.number, p.value) for p in points if p.known_good and p.value is not None]
    for x, y in given:
        axes.plot(
            x, min(y, limit) if not maximize else max(y, limit), marker="o", markersize=11,
            markerfacecolor="none", color=ORANGE, linestyle="none", label="known good",
        )  # fmt: skip
    dress(axes)


def draw_importances(study: Study) -> Figure | None:
    """How much each objective depends on each parameter; None where there is too little."""
    shares = {n: found for n in range(len(study.directions)) if (found := importances(study, n))}
    if not shares:
        return None
    figure = new_figure(1.5 + 0.36 * max(len(found) for found in shares.values()))
    row = figure.subplots(1, len(shares), squeeze=False)[0]
    for axes, (n, found) in zip(row, shares.items(), strict=True):
        heights = [100 * share for share in found.values()]
        bars = axes.barh(list(named(found).values()), heights, color=BLUE)
        axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 115)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_title(goals(study)[n], fontsize=10)
        axes.set_xlabel("share of the variance, %")
        axes.spines[["top", "right"]].set_visible(False)
    trials = study.get_trials(deepcopy=False)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    title = f"What the result depends on: fANOVA of the {complete} complete trials of {len(trials)}"
    rated = {path for found in shares.values() for path in found}
    if left_out := [path for path in parameters(trials) if path not in rated]:
        title += f"\nnot rated, as not all trials have it: {', '.join(named(left_out).values())}"
    figure.suptitle(title, fontsize=10)
    return figure


def draw_freezing(study: Study) -> Figure | None:
    """Objectives by what is frozen; None unless the space has it and a trial ran to its end."""
    found = {path: strips(study, path) for path in FREEZING}
    paths = [path for path in FREEZING if any(strip.finished for strip in found[path])]
    if not paths:
        return None
    names = goals(study)
    figure = new_figure(1.3 + 2.6 * len(names))
    grid = figure.subplots(len(names), len(paths), sharey="row", sharex="col", squeeze=False)
    for n, row in enumerate(grid):
        for path, axes in zip(paths, row, strict=True):
            _draw_strips(axes, strips(study, path, n), is_maximized(study, n))
        row[0].set_ylabel(names[n])
    for path, axes in zip(paths, grid[-1], strict=True):
        axes.set_xlabel(named([path])[path])
    return finish(figure, study, grid.flat)


def _draw_strips(axes: Axes, found: list[Strip], maximize: bool) -> None:
    limit = good_limit([v for s in found for v in (*s.finished, *s.stopped)], maximize) or 0.0
    for x, strip in enumerate(found):
        for values, shift, marker, colour, label in (
            (strip.finished, -0.1, "o", BLUE, ENDED),
            (strip.stopped, 0.15, "v", GREY, EARLY),
        ):
            places = [x + shift + 0.05 * (n % 3 - 1) for n in range(len(values))]
            scatter(
                axes, places, sorted(values), limit, maximize, marker=marker, color=colour, s=34,
                label=label, alpha=0.75,
            )  # fmt: skip
        if strip.finished:
            middle = median(strip.finished)
            axes.hlines(
                middle, x - 0.32, x + 0.32, color=ORANGE, zorder=3,
                label="median of those that ran to their end",
            )  # fmt: skip
    ticks = [f"{strip.label}\n{len(strip.finished)} complete" for strip in found]
    axes.set_xticks(range(len(found)), ticks, fontsize=9)
    axes.set_xlim(-0.5, len(found) - 0.5)
    dress(axes)
    axes.grid(visible=False, axis="x")


def draw_curves(study: Study) -> Figure | None:
    """Validation loss of every trial over its share of the budget; None without one."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if curve(trial)]
    losses = [value for trial in trials for value in curve(trial).values()]
    if (limit := good_limit(losses)) is None:
        return None
    best, whole = front(study), budget(study)
    label = "best" if len(study.directions) == 1 else "on the Pareto front"
    figure = new_figure(3.9)
    axes = figure.subplots()
    for trial in trials:
        _draw_curve(axes, trial, whole, label if trial in best else None)
    if best and curve(best[0]) and (end := list(curve(best[0]).values())[-1]) <= limit:
        axes.annotate(
            str(best[0].number), (100, end), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9, color=ORANGE, annotation_clip=False,
        )  # fmt: skip
    space = 0.04 * (limit - min(losses)) or 0.1
    axes.set_ylim(min(losses) - space, limit + space)
    axes.set_xlabel("share of a trial's budget, %" if whole else "validation")
    if 0 < whole <= 10:
        axes.set_xticks([100 * step / whole for step in range(1, whole + 1)])
    axes.set_ylabel("lowest validation loss so far")
    dress(axes)
    return finish(figure, study, [axes])


def _draw_curve(axes: Axes, trial: FrozenTrial, whole: int, best: str | None) -> None:
    """A line that ends where its trial did; `best` is what it is called if it is among those."""
    places = [100 * step / whole if whole else step for step in curve(trial)]
    colour, label, order = {
        FINISHED: (BLUE, ENDED, 2.5),
        STOPPED: (GREY, STOPPED, 2.0),
        RUNNING: (SKY, RUNNING, 2.0),
    }.get(outcome(trial), (RED, BROKEN, 2.0))
    if best:
        colour, label, order = ORANGE, best, 3.0
    axes.plot(
        places, list(curve(trial).values()), color=colour, label=label, zorder=order,
        linewidth=2.4 if best else 1.1, alpha=1 if best else 0.7, marker="o", markersize=3,
    )  # fmt: skip


def draw_pareto(study: Study) -> Figure | None:
    """Two objectives of all complete trials, and the front; None for one objective."""
    if len(study.directions) != 2 or not (best := front(study)):
        return None
    pairs = [(final(t, 0), final(t, 1)) for t in study.get_trials(deepcopy=False)]
    xs, ys = zip(*[(x, y) for x, y in pairs if x is not None and y is not None], strict=True)
    figure = new_figure(4.6)
    axes = figure.subplots()
    axes.scatter(xs, ys, color=BLUE, s=34, alpha=0.6, label=ENDED)
    axes.plot(
        *zip(*(trial.values for trial in best), strict=True), color=ORANGE, marker="o",
        drawstyle="steps-post", label="Pareto front, with the trials' numbers",
    )  # fmt: skip
    axes.margins(0.12, 0.14)
    _number_front(axes, best, study.directions)
    axes.set_xlabel(goals(study)[0])
    axes.set_ylabel(goals(study)[1])
    dress(axes)
    return finish(figure, study, [axes])


def _number_front(axes: Axes, best: list[FrozenTrial], directions: list[StudyDirection]) -> None:
    """Write the numbers on the side of the front where no trial is; neighbours share a label.

    Labels that would lie on others move away from the front.
    """
    right, up = (direction == StudyDirection.MAXIMIZE for direction in directions)
    (left, end), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    groups: list[list[FrozenTrial]] = []
    for trial in best:
        x, y = groups[-1][0].values if groups else (float("inf"), float("inf"))
        near = abs(trial.values[0] - x) < 0.03 * (end - left)
        if near and abs(trial.values[1] - y) < 0.05 * (top - bottom):
            groups[-1].append(trial)
        else:
            groups.append([trial])
    written: list[Annotation] = []
    for group in groups:
        label = axes.annotate(
            ", ".join(str(trial.number) for trial in group), tuple(group[0].values),
            xytext=(5 if right else -5, 5 if up else -5), textcoords="offset points",
            ha="left" if right else "right", va="bottom" if up else "top",
            fontsize=9, color=ORANGE,
        )  # fmt: skip
        while any(label.get_window_extent().overlaps(w.get_window_extent()) for w in written):
            x, y = label.get_position()
            label.set_position((x, y + (NUDGE_POINTS if up else -NUDGE_POINTS)))
        written.append(label)

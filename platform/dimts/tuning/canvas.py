"""The look that the pictures of a sweep share. Matplotlib's object interface only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optuna import Study

from dimts.plotting.mel import DPI, WIDTH_IN
from dimts.tuning.outcomes import METRICS, objectives
from dimts.tuning.report import counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, SKY, GREY, RED, ORANGE = "#0072B2", "#56B4E9", "#8C8C8C", "#B00020", "#D55E00"
ENDED = "ran to its end"
EARLY = "stopped early, at its last value"
BROKEN = "diverged, failed"


def new_figure(height: float) -> Figure:
    """An empty picture of README width; its height is in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")


def goals(study: Study) -> list[str]:
    """What the axes of the objectives are called."""
    return [METRICS.get(name, name) for name in objectives(study)]


def scatter(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], limit: float, maximize: bool, **look: Any
) -> None:
    """Draw points; those that are worse than the limit are triangles at the border."""
    sign = -1 if maximize else 1
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if sign * y <= sign * limit]
    beyond = [x for x, y in zip(xs, ys, strict=True) if sign * y > sign * limit]
    if inside:
        axes.scatter(*zip(*inside, strict=True), **look)
    if beyond:
        look |= {"marker": "v" if maximize else "^", "label": "worse than the scale"}
        axes.scatter(beyond, [limit] * len(beyond), **look)


def dress(axes: Axes) -> None:
    """A quiet grid, no box."""
    axes.grid(color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def finish(figure: Figure, study: Study, all_axes: Iterable[Axes]) -> Figure:
    """Put how many trials ended how above the picture, and one legend below it."""
    labelled: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if labelled:
        figure.legend(
            labelled.values(), labelled.keys(), loc="outside lower center",
            ncols=len(labelled) if len(labelled) <= 5 else 3, frameon=False, fontsize=9,
        )  # fmt: skip
    figure.suptitle(counts(study), fontsize=10)
    return figure

"""The points and lines of a sweep's pictures, and their files."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from optuna import Study
from optuna.trial import TrialState
from study_fixtures import (
    BATCH,
    FORGETTING,
    FREEZE,
    LOSS,
    LR,
    SHARE,
    START,
    add,
    mixed,
    new_study,
)

from dimts.tuning import points
from dimts.tuning.parallel_plot import Axis, axes_of, shown
from dimts.tuning.plots import draw_curves, draw_pareto, write_plots

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

# Points of the pictures


def test_history_holds_what_a_stopped_trial_reached_last() -> None:
    study = new_study(LOSS)
    add(study, [1.0], curve=[2.0, 1.0], known_good=True)
    add(study, None, curve=[4.0, math.nan])
    add(study, None, state=TrialState.FAIL)
    add(study, None, state=TrialState.RUNNING)
    assert points.history(study) == [
        (0, 1.0, "finished", True),
        (1, 4.0, "stopped early", False),
        (2, None, "failed", False),
    ]


def test_history_of_two_objectives_reads_the_rungs() -> None:
    study = new_study(LOSS, FORGETTING)
    add(study, [1.0, 0.5])
    add(study, None, curve=[3.0, 2.0])
    assert [point.value for point in points.history(study, 0)] == [1.0, 2.0]
    assert [point.value for point in points.history(study, 1)] == [0.5, None]


def test_strips_keep_the_order_of_the_choices_and_stopped_trials_apart() -> None:
    found = points.strips(mixed(), FREEZE)
    assert [strip.label for strip in found] == ["0", "0.5", "n_base"]
    assert [len(strip.finished) for strip in found] == [4, 3, 3]
    assert found[0].stopped == [6.0, 6.0, 6.0]
    assert found[1].finished == pytest.approx([2.9, 2.6, 2.3])


def test_the_scale_leaves_out_what_went_wrong() -> None:
    assert points.good_limit([1, 1.1, 1.2, 1.3, 1.4, 900]) == 1.4
    assert points.good_limit([1, 1.1, 1.2, 1.3, 1.4, -900], maximize=True) == 1
    assert points.good_limit([1, 900]) == 900
    assert points.good_limit([]) is None


def axis(study: Study, name: str) -> Axis:
    return next(axis for axis in axes_of(study) if axis.name == name)


def test_parallel_axes_are_logarithmic_where_the_search_was() -> None:
    study = new_study(LOSS)
    for n, rate in enumerate((1e-4, 1e-3, 1e-2)):
        add(study, [3.0 - n], {LR: rate, BATCH: 4 + 6 * n})
    assert axis(study, "learning rate").heights == pytest.approx([0, 0.5, 1])
    assert axis(study, "batch size").heights == pytest.approx([0, 0.5, 1])
    assert axis(study, "validation loss").heights == pytest.approx([1, 0.5, 0])
    ticks = {label: height for height, label in axis(study, "learning rate").ticks}
    assert ticks["0.001"] == pytest.approx(0.5)


def test_parallel_axes_name_choices_and_what_a_trial_does_not_use() -> None:
    study = new_study(LOSS)
    add(study, [2.0], {START: "random", SHARE: 0.4})
    add(study, [1.0], {START: "nearest"})
    start, share = axis(study, "start of new rows"), axis(study, "rehearsal share")
    assert start.ticks == [(0.25, "random"), (0.75, "nearest")]
    first, second = start.heights
    assert first is not None and second is not None
    assert first < 0.5 < second
    assert share.heights == [1.0, None]


def test_the_best_line_is_on_top_and_stopped_ones_below() -> None:
    study = new_study(LOSS)
    for values, curve in (([1.0], [1.0]), (None, [0.5]), ([2.0], [2.0]), (None, [3.0])):
        add(study, values, curve=curve)
    add(study, None, state=TrialState.FAIL)
    add(study, None, curve=[0.2], state=TrialState.FAIL)
    add(study, None, curve=[0.1], outcome="diverged")
    assert [trial.number for trial in shown(study)] == [3, 1, 2, 0]


def test_curves_end_where_their_trial_did() -> None:
    study = new_study(LOSS)
    add(study, [1.0], curve=[4.0, 3.0, 2.0, 1.0])
    add(study, None, curve=[5.0, 4.5])
    add(study, None, curve=[3.0, 2.5, 2.4], state=TrialState.FAIL)
    figure = draw_curves(study)
    assert figure is not None
    ends = {
        line.get_label(): list(np.asarray(line.get_xdata())) for line in figure.axes[0].get_lines()
    }
    assert ends == {
        "best": [25, 50, 75, 100], "stopped early": [25, 50], "diverged, failed": [25, 50, 75],
    }  # fmt: skip


def test_the_front_is_drawn_as_a_line_with_numbers() -> None:
    study = new_study(LOSS, FORGETTING)
    for values in ([1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [3.0, 1.0]):
        add(study, values)
    figure = draw_pareto(study)
    assert figure is not None
    (line,) = figure.axes[0].get_lines()
    assert np.asarray(line.get_xydata()).tolist() == [[1, 3], [2, 2], [3, 1]]
    assert [note.get_text() for note in figure.axes[0].texts] == ["0", "1", "3"]


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_the_front_are_not_written_over_each_other(sign: int) -> None:
    study = new_study(LOSS, FORGETTING, directions=["minimize" if sign > 0 else "maximize"] * 2)
    for n in range(24):  # a front that is nearly flat
        add(study, [sign * 0.012 * n, sign * 0.001 * (24 - n)])
    add(study, [sign * 1.0, sign * 5.0])
    figure = draw_pareto(study)
    assert figure is not None
    places = [note.get_window_extent() for note in figure.axes[0].texts]
    assert len(places) > 3
    assert not any(a.overlaps(b) for a, b in combinations(places, 2))


# Files


def test_every_picture_is_a_png_that_shows_the_data(tmp_path: Path) -> None:
    study = mixed()
    names = ["history", "importances", "parallel", "freeze_index", "curves"]
    first = write_plots(study, tmp_path / "first")
    assert [path.name for path in first] == [f"{name}.png" for name in names]
    for n in range(4):
        add(study, [1.0 + n], {LR: 1e-4, BATCH: 16, FREEZE: "n_base"}, [3.0, 2.5, 1.0 + n])
    for before, after in zip(first, write_plots(study, tmp_path / "second"), strict=True):
        picture = imread(before)
        assert picture.shape[1] >= 900
        assert np.ptp(picture[..., :3]) > 0.5, "not blank"
        assert before.read_bytes() != after.read_bytes()


def test_two_objectives_have_a_picture_of_the_front(tmp_path: Path) -> None:
    study = new_study(LOSS, FORGETTING)
    add(study, [1.0, 2.0])
    add(study, [2.0, 1.0])
    add(study, None, curve=[3.0])
    names = [path.stem for path in write_plots(study, tmp_path)]
    assert names == ["history", "parallel", "curves", "pareto"]


def test_nothing_is_drawn_through_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, optuna, pathlib; from dimts.tuning.plots import write_plots\n"
        "study = optuna.create_study(); study.optimize(lambda t: t.suggest_float('x', 0, 1), 9)\n"
        f"assert len(write_plots(study, pathlib.Path({str(tmp_path)!r}))) == 2\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

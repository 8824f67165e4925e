"""What a sweep's plots show, and their page."""

from __future__ import annotations

import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna import Study
from optuna.distributions import CategoricalDistribution
from study_fixtures import (
    BATCH,
    FORGETTING,
    FREEZE,
    LOSS,
    LR,
    SHARE,
    SPACE,
    add,
    mixed,
    new_study,
    search,
)

from dimts.families.acoustic.metrics import METRICS
from dimts.tuning.plots import MIN_COMPLETE, draw, write_page

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

HISTORY, SLICE, PARALLEL = "Optimization History Plot", "Slice Plot", "Parallel Coordinate Plot"
CURVES, TIMELINE, FRONT = "Intermediate Values Plot", "Timeline Plot", "Pareto-front Plot"
WHAT = "What validation loss depends on"


def titles(study: Study) -> list[str]:
    return [figure.layout.title.text for figure in draw(study, METRICS)]


def figure_of(study: Study, title: str, n: int = 0) -> Any:
    return [f for f in draw(study, METRICS) if f.layout.title.text.startswith(title)][n]


def ys(trace: Any) -> list[float]:
    return [float(y) for y in np.asarray(trace.y) if math.isfinite(y)]


# Which there are


def test_sweep_has_each_plot_that_it_has_enough_for() -> None:
    found = titles(mixed())
    assert found[3].startswith(f"{WHAT}: fANOVA of the 10 complete trials of 15")
    assert [*found[:3], *found[4:]] == [
        HISTORY, SLICE, PARALLEL, "Rank (validation loss)", CURVES, TIMELINE,
    ]  # fmt: skip
    assert titles(new_study(LOSS)) == []


@pytest.mark.parametrize("goals", [(LOSS,), (LOSS, FORGETTING)])
def test_sweep_in_which_nothing_was_finished_has_curves_and_times(goals: tuple[str, ...]) -> None:
    study = new_study(*goals)
    add(study, None, curve=[3.0, 2.0])
    add(study, None, {LR: 2e-3, BATCH: 8}, curve=[4.0])
    assert titles(study) == [CURVES, TIMELINE]


def test_two_objectives_have_a_front_and_plots_of_each() -> None:
    study = new_study(LOSS, FORGETTING)
    for values in ([1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [3.0, 1.0]):
        add(study, values)
    add(study, None, curve=[3.0])
    each = [HISTORY, SLICE, PARALLEL]
    assert titles(study) == [FRONT, *each, *each, CURVES, TIMELINE]
    dominated, best = figure_of(study, FRONT).data
    assert sorted(zip(best.x, best.y, strict=True)) == [(1, 3), (2, 2), (3, 1)]
    assert list(zip(dominated.x, dominated.y, strict=True)) == [(3, 3)]
    assert [figure_of(study, HISTORY, n).layout.yaxis.title.text for n in (0, 1)] == [
        "validation loss", "forgetting, change of MCD (dB)",
    ]  # fmt: skip


# What they show


def test_stopped_trial_is_no_result_however_low_its_last_loss() -> None:
    study = new_study(LOSS)
    add(study, None, curve=[0.1])
    add(study, [2.0], curve=[2.5, 2.0])
    add(study, [1.5], curve=[2.4, 1.5])
    assert [ys(trace) for trace in figure_of(study, HISTORY).data[:2]] == [[2.0, 1.5]] * 2
    assert ys(figure_of(study, SLICE).data[0]) == [2.0, 1.5]


def test_larger_is_better_where_an_objective_is_maximized() -> None:
    study = new_study("accuracy", directions=["maximize"])
    for value in (1.0, 3.0, 2.0):
        add(study, [value], {LR: 1e-3 * value})
    assert [ys(trace) for trace in figure_of(study, HISTORY).data[:2]] == [[1, 3, 2], [1, 3, 3]]
    assert not figure_of(study, PARALLEL).data[-1].marker.reversescale, "the greatest is dark"
    two = new_study("accuracy", LOSS, directions=["maximize", "minimize"])
    for values in ([3.0, 3.0], [1.0, 1.0], [2.0, 4.0]):
        add(two, values)
    _, best = figure_of(two, FRONT).data
    assert sorted(zip(best.x, best.y, strict=True)) == [(1, 1), (3, 3)]
    assert [ys(figure_of(two, HISTORY, n).data[1]) for n in (0, 1)] == [[3, 3, 3], [3, 1, 1]]


@pytest.mark.parametrize("goals", [(LOSS,), (LOSS, FORGETTING)])
def test_curves_end_where_their_trial_did(goals: tuple[str, ...]) -> None:
    study = new_study(*goals)
    add(study, [1.0, 1.0][: len(goals)], curve=[4.0, 3.0, 2.0, 1.0])
    add(study, None, curve=[5.0, 4.5, math.nan])
    add(study, None, curve=[6.0], outcome="diverged")
    figure = figure_of(study, CURVES)
    assert {trace.name: list(trace.y) for trace in figure.data} == {
        "Trial0": [4.0, 3.0, 2.0, 1.0], "Trial1": [5.0, 4.5],
    }  # fmt: skip
    assert figure.layout.yaxis.title.text == "best validation loss so far"


def test_timeline_tells_how_each_trial_ended() -> None:
    bars = {bar.name: list(bar.y) for bar in figure_of(mixed(), TIMELINE).data}
    assert bars == {"COMPLETE": list(range(10)), "PRUNED": [10, 11, 12], "FAIL": [13, 14]}


def test_parameters_have_short_names_that_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = "model.encoder.dropout", "model.decoder.dropout"
    monkeypatch.setitem(SPACE, encoder, SPACE[SHARE])
    monkeypatch.setitem(SPACE, decoder, SPACE[SHARE])
    study = new_study(LOSS)
    add(study, [1.0], {LR: 1e-3, encoder: 0.1, decoder: 0.2})
    axes = figure_of(study, PARALLEL).layout.xaxis.ticktext
    assert list(axes) == ["validation loss", "decoder dropout", "encoder dropout", "lr"]


# Importances


def shares(study: Study, n: int = 0) -> dict[str, float]:
    (bars,) = figure_of(study, "What", n).data
    return dict(zip(bars.y, bars.x, strict=True))


@pytest.mark.parametrize(("weights", "first"), [((1, 0.01), "lr"), ((0.05, 1), "freeze")])
def test_importances_name_what_matters(weights: tuple[float, float], first: str) -> None:
    found = shares(search(20, *weights))
    assert max(found, key=lambda name: found[name]) == first
    assert found[first] > 0.7
    assert sum(found.values()) == pytest.approx(1)


def test_importances_are_of_one_objective_each() -> None:
    study = new_study(LOSS, FORGETTING)
    for trial in search(20, 1, 0).trials:
        freeze = float([0, 0.5, "n_base"].index(trial.params[FREEZE]))
        assert trial.value is not None
        add(study, [trial.value, freeze], trial.params)
    assert [max(found := shares(study, n), key=lambda k: found[k]) for n in (0, 1)] == [
        "lr", "freeze",
    ]  # fmt: skip
    assert titles(study)[9].startswith("What forgetting, change of MCD (dB) depends on")


def test_importances_do_not_look_at_stopped_trials() -> None:
    study = search(20, 1, 0.01)
    before = shares(study)
    for n in range(20):
        add(study, None, {LR: 1e-3, BATCH: 4, FREEZE: 0}, curve=[100.0 * n])
    assert shares(study) == before
    assert "the 20 complete trials of 40" in figure_of(study, WHAT).layout.title.text


def test_too_few_trials_or_one_value_have_no_importances() -> None:
    for study in (search(MIN_COMPLETE - 1, 1, 1), search(20, 0, 0)):
        assert not [title for title in titles(study) if title.startswith("What")]
    assert shares(search(MIN_COMPLETE, 1, 1))


def test_parameter_that_cannot_be_rated_is_named() -> None:
    study = search(20, 1, 1)
    add(study, [3.0], {LR: 1e-3, BATCH: 4, FREEZE: 0, SHARE: 0.1})
    assert "rehearsal" not in shares(study)
    assert figure_of(study, WHAT).layout.title.text.endswith("have it: rehearsal")


# The page


def test_page_shows_the_data_and_needs_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPACE, "text.first", CategoricalDistribution(["ሰላም", "hello"]))
    study = mixed()
    add(study, [0.123456789], {LR: 1e-3, "text.first": "ሰላም"})
    write_page(study, METRICS, tmp_path / "plots.html")
    page = (tmp_path / "plots.html").read_text(encoding="utf-8")
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    (plotly,) = [script for script in scripts if len(script) > 1e6]
    rest = page.replace(plotly, "")
    assert len(rest) < 1e6
    assert rest.count("Plotly.newPlot(") == len(draw(study, METRICS))
    assert not re.search(r"https?:|(?:src|href)=|@import", rest)
    assert '<meta charset="utf-8">' in page
    assert "<td>ሰላም</td>" in page
    assert "<td>0.1235</td>" in page
    assert "ሰላም".encode("unicode_escape").decode() in rest, "in a plot"
    assert "0.123456789" in rest
    assert "<b>" not in rest
    assert "<b> & co" in unescape(rest)


def test_page_of_a_sweep_without_a_trial_says_so(tmp_path: Path) -> None:
    write_page(new_study(LOSS), METRICS, tmp_path / "plots.html")
    assert "<p>0 trials; none" in (tmp_path / "plots.html").read_text(encoding="utf-8")

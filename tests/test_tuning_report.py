"""What a sweep tells: the winner, tables and importances, from real studies."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
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
    search,
)

from dimts.tuning import points, report
from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import named, text
from dimts.tuning.plots import draw_importances, write_plots

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

# The winner


def test_a_stopped_trial_is_never_best_however_low_its_last_loss() -> None:
    study = new_study(LOSS)
    add(study, None, curve=[0.1])
    add(study, [2.0], curve=[2.5, 2.0])
    add(study, [1.5], curve=[2.4, 1.5])
    assert [trial.number for trial in report.front(study)] == [2]
    assert points.best_so_far(study) == [(1, 2.0), (2, 1.5)]
    assert report.markdown_table(study).count("\n") == 4, "head, rule and the complete trials"


def test_of_equals_the_earlier_trial_is_best() -> None:
    study = new_study(LOSS)
    for value in (2.0, 1.0, 1.0):
        add(study, [value])
    assert [trial.number for trial in report.front(study)] == [1]


def test_a_value_that_is_not_finite_is_never_best() -> None:
    study = new_study(LOSS, FORGETTING)
    add(study, [-math.inf, 0.0])
    add(study, [1.0, 1.0])
    assert [trial.number for trial in report.front(study)] == [1]


def test_the_front_is_what_nothing_beats_in_both_objectives() -> None:
    study = new_study(LOSS, FORGETTING)
    for values in ([3, 1], [1, 3], [2, 2], [2, 3], [3, 3], [2.5, 2], [1, 4]):
        add(study, [float(value) for value in values])
    assert [trial.number for trial in report.front(study)] == [1, 2, 0]
    assert {t.number for t in study.best_trials} == {0, 1, 2}


def test_the_front_follows_the_directions() -> None:
    study = new_study("a", "b", directions=["maximize", "minimize"])
    for values in ([3.0, 3.0], [1.0, 1.0], [2.0, 4.0]):
        add(study, values)
    assert [trial.number for trial in report.front(study)] == [0, 1]


@pytest.mark.parametrize("goals", [(LOSS,), (LOSS, FORGETTING)])
def test_a_sweep_in_which_nothing_was_finished_still_has_its_report(
    tmp_path: Path, goals: tuple[str, ...]
) -> None:
    study = new_study(*goals)
    add(study, None, curve=[3.0, 2.0])
    add(study, None, {LR: 2e-3, BATCH: 8}, curve=[4.0])
    assert report.front(study) == []
    assert report.importances(study) == {}
    assert "2 trials: 2 stopped early; none" in report.markdown_table(study)
    report.write_html(study, tmp_path / "a.html")
    names = [path.stem for path in write_plots(study, tmp_path)]
    assert names == ["history", "parallel", "curves"]


def test_a_sweep_without_a_trial_has_a_report(tmp_path: Path) -> None:
    study = new_study(LOSS)
    report.write_csv(study, tmp_path / "new" / "a.csv")
    report.write_html(study, tmp_path / "new" / "a.html")
    assert write_plots(study, tmp_path) == []
    assert report.summary(study).startswith("0 trials;")


# Tables


def test_each_row_of_the_table_has_the_same_columns(tmp_path: Path) -> None:
    study = new_study(LOSS)
    figures = {LOSS: 2.0, "val/mcd": 6.5}
    add(study, [2.0], {LR: 1e-3, START: "random", SHARE: 0.2}, [3, 2], figures=figures, step=40)
    add(study, None, {LR: 2e-3, START: "nearest"}, [4.0])
    report.write_csv(study, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "number", "outcome", "known good", LOSS, "val/mcd", LR, START, SHARE, "rung_1", "rung_2",
        "step", "frames", "seconds", "reason",
    ]  # fmt: skip
    assert [row["outcome"] for row in rows] == ["finished", "stopped early"]
    assert [row[LOSS] for row in rows] == ["2.0", ""], "a smaller budget's loss is no result"
    assert [row["rung_1"] for row in rows] == ["3.0", "4.0"]
    assert [row[SHARE] for row in rows] == ["0.2", ""]


def test_the_table_tells_what_became_of_each_trial() -> None:
    rows = report.trials_table(mixed())
    assert [row["outcome"] for row in rows[9:]] == [
        "finished", "stopped early", "stopped early", "stopped early", "diverged", "failed",
    ]  # fmt: skip
    assert [row["number"] for row in rows if row["known good"]] == [0]
    assert rows[13]["reason"] == "loss is nan"


def test_the_page_escapes_everything_and_needs_no_other_file(tmp_path: Path) -> None:
    study = mixed()
    report.write_html(study, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt; &amp; co" in page
    assert not re.search(r"(?:src|href)=", page)
    best = re.findall(r"<tr class='best'>.*?</tr>", page)
    assert len(best) == 1
    assert best[0].startswith("<tr class='best'><td data-key='9'>")


def test_the_page_sorts_by_the_whole_number(tmp_path: Path) -> None:
    study = new_study(LOSS)
    add(study, [1.23456789])
    report.write_html(study, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<td data-key='1.23456789'>1.235</td>" in page


def test_a_quote_in_a_value_does_not_end_its_attribute(tmp_path: Path) -> None:
    study = new_study(LOSS)
    add(study, None, reason="it's <i>")
    report.write_html(study, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "data-key='it&#x27;s &lt;i&gt;'" in page


def test_the_markdown_table_holds_the_best_in_order() -> None:
    lines = report.markdown_table(mixed(), n=3).splitlines()
    assert lines[0] == f"| trial | {LOSS} | lr | batch | freeze | steps | known good |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 9", "| 8", "| 7"]
    assert all(line.count(" | ") == lines[0].count(" | ") for line in lines)


def test_the_markdown_table_says_who_is_on_the_front() -> None:
    study = new_study(LOSS, FORGETTING)
    for values in ([1.0, 3.0], [1.5, 3.5], [2.0, 1.0]):
        add(study, values)
    cells = [line.split(" | ")[:2] for line in report.markdown_table(study).splitlines()]
    assert cells[2:] == [["| 0", "yes"], ["| 2", "yes"], ["| 1", ""]]


def test_the_markdown_table_has_the_whole_front() -> None:
    study = new_study(LOSS, FORGETTING)
    for n in range(12):
        add(study, [1.0 + n, 12.0 - n])
    add(study, [20.0, 20.0])
    rows = report.markdown_table(study).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {n}" for n in range(12)]


def limited(change: float) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "limited",
            "objectives": {"val/mcd": "minimize", "forgetting/mcd_change": "minimize"},
            "limits": {"forgetting/mcd_change": change},
            "space": {LR: {"type": "float", "low": 1e-4, "high": 1e-2}},
        }
    )


def test_the_winner_is_the_first_on_the_front_that_keeps_the_limits() -> None:
    study = new_study(LOSS, FORGETTING)
    assert report.pick_winner(limited(0.5), study) is None
    for values in ([1.0, 3.0], [2.0, 0.4], [3.0, 0.3], [2.5, 0.45]):
        add(study, values)
    numbers = []
    for limit in (5.0, 0.5, 0.35, 0.1):
        trial = report.pick_winner(limited(limit), study)
        assert trial is not None
        numbers.append(trial.number)
    assert numbers == [0, 1, 2, 2], "none keeps the last: the nearest"


def test_a_setting_is_one_line() -> None:
    line = report.short({LR: 0.00213, BATCH: 8, FREEZE: "n_base", START: "random"})
    assert line == "lr 0.0021, batch 8, freeze n_base, start random"


def test_names_that_end_alike_are_told_apart() -> None:
    names = named(["model.encoder.dropout", "model.decoder.dropout", "training.ema_decay"])
    assert list(names.values()) == ["encoder dropout", "decoder dropout", "ema decay"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "none"), (False, "off"), (0.0, "0"), (2e-05, "2e-05"), ([0, 1], "[0, 1]")],
)
def test_values_read_well(value: Any, shown: str) -> None:
    assert text(value) == shown


# Importances


@pytest.mark.parametrize(("weights", "first"), [((1, 0.01), LR), ((0.05, 1), FREEZE)])
def test_importances_name_what_matters(weights: tuple[float, float], first: str) -> None:
    shares = report.importances(search(20, *weights))
    assert next(iter(shares)) == first
    assert shares[first] > 0.7
    assert sum(shares.values()) == pytest.approx(1)


def test_importances_are_of_one_objective_each() -> None:
    study = new_study(LOSS, FORGETTING)
    for trial in search(20, 1, 0).trials:
        freeze = float([0, 0.5, "n_base"].index(trial.params[FREEZE]))
        assert trial.value is not None
        add(study, [trial.value, freeze], trial.params)
    assert [next(iter(report.importances(study, n))) for n in (0, 1)] == [LR, FREEZE]


def test_importances_do_not_look_at_stopped_trials() -> None:
    study = search(20, 1, 0.01)
    before = report.importances(study)
    for n in range(20):
        add(study, None, {LR: 1e-3, BATCH: 4, FREEZE: 0}, curve=[100.0 * n])
    assert report.importances(study) == before
    figure = draw_importances(study)
    assert figure is not None
    assert "the 20 complete trials of 40" in figure.get_suptitle()


def test_too_few_trials_or_one_value_have_no_importances(tmp_path: Path) -> None:
    (tmp_path / "importances.png").write_bytes(b"of an earlier call")
    few = search(report.FEWEST - 1, 1, 1)
    assert report.importances(few) == {}
    assert report.importances(search(20, 0, 0)) == {}
    assert "importances" not in [path.stem for path in write_plots(few, tmp_path)]
    assert not (tmp_path / "importances.png").exists()
    assert report.importances(search(report.FEWEST, 1, 1))


def test_a_parameter_that_cannot_be_rated_is_named() -> None:
    study = search(20, 1, 1)
    add(study, [3.0], {LR: 1e-3, BATCH: 4, FREEZE: 0, SHARE: 0.1})
    assert SHARE not in report.importances(study)
    figure = draw_importances(study)
    assert figure is not None
    assert "rehearsal share" in figure.get_suptitle().splitlines()[1]

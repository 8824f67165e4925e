"""What a sweep says: the winner and tables, from real studies."""

from __future__ import annotations

import csv
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
)

from dimts.tuning import report
from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import named, text

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

# The winner


def test_a_stopped_trial_is_never_best_however_low_its_last_loss() -> None:
    study = new_study(LOSS)
    add(study, None, curve=[0.1])
    add(study, [2.0], curve=[2.5, 2.0])
    add(study, [1.5], curve=[2.4, 1.5])
    assert [trial.number for trial in report.front(study)] == [2]
    assert report.markdown_table(study).count("\n") == 4, "head, rule and the complete trials"


def test_of_equals_the_earlier_trial_is_best() -> None:
    study = new_study(LOSS)
    for value in (2.0, 1.0, 1.0):
        add(study, [value])
    assert [trial.number for trial in report.front(study)] == [1]


def test_the_front_is_what_nothing_beats_in_both_objectives() -> None:
    study = new_study(LOSS, FORGETTING)
    for values in ([3, 1], [1, 3], [2, 2], [2, 3], [3, 3], [2.5, 2], [1, 4]):
        add(study, [float(value) for value in values])
    assert [trial.number for trial in report.front(study)] == [1, 2, 0]


def test_the_front_follows_the_directions() -> None:
    study = new_study("a", "b", directions=["maximize", "minimize"])
    for values in ([3.0, 3.0], [1.0, 1.0], [2.0, 4.0]):
        add(study, values)
    assert [trial.number for trial in report.front(study)] == [0, 1]


@pytest.mark.parametrize("goals", [(LOSS,), (LOSS, FORGETTING)])
def test_sweep_in_which_nothing_was_finished_still_has_its_tables(goals: tuple[str, ...]) -> None:
    study = new_study(*goals)
    add(study, None, curve=[3.0, 2.0])
    add(study, None, {LR: 2e-3, BATCH: 8}, curve=[4.0])
    assert report.front(study) == []
    assert "2 trials: 2 stopped early; none" in report.markdown_table(study)
    assert list(report.trials_table(study)["outcome"]) == ["stopped early"] * 2


def test_sweep_without_a_trial_has_a_table_and_a_summary() -> None:
    assert report.trials_table(new_study(LOSS)).empty
    assert report.summary(new_study(LOSS)).startswith("0 trials;")


# Tables


def test_each_row_of_the_table_has_the_same_columns(tmp_path: Path) -> None:
    study = new_study(LOSS)
    metrics = {LOSS: 2.0, "val/mcd": 6.5}
    add(study, [2.0], {LR: 1e-3, START: "random", SHARE: 0.2}, [3, 2], metrics=metrics, step=40)
    add(study, None, {LR: 2e-3, START: "nearest"}, [4.0], metrics=metrics, passed=1)
    report.trials_table(study).to_csv(tmp_path / "trials.csv", index=False)
    with (tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "number", "outcome", "known good", LOSS, SHARE, START, LR, "rung_1", "rung_2", "step",
        "val/mcd",
    ]  # fmt: skip
    assert [row["outcome"] for row in rows] == ["finished", "stopped early"]
    assert [row[LOSS] for row in rows] == ["2", ""], "a smaller budget's loss is no result"
    assert [row["rung_1"] for row in rows] == ["3", "4"]
    assert [row["step"] for row in rows] == ["40", ""]
    assert [row[SHARE] for row in rows] == ["0.2", ""]


def test_the_table_tells_what_became_of_each_trial() -> None:
    table = report.trials_table(mixed())
    assert list(table["outcome"][9:]) == [
        "finished", "stopped early", "stopped early", "stopped early", "diverged", "failed",
    ]  # fmt: skip
    assert list(table["number"][table["known good"]]) == [0]
    assert table["reason"][13] == "loss is nan"


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


def limited(change: float, direction: str = "minimize") -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "limited",
            "objectives": {"val/mcd": direction, "forgetting/mcd_change": direction},
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


def test_larger_is_better_where_an_objective_is_maximized() -> None:
    study = new_study("val/mcd", "forgetting/mcd_change", directions=["maximize"] * 2)
    for values in ([1.0, 9.0], [3.0, 0.4], [2.0, 0.6], [2.5, 0.1]):
        add(study, values)
    rows = [line.split(" | ")[:2] for line in report.markdown_table(study).splitlines()[2:]]
    assert rows == [["| 1", "yes"], ["| 2", "yes"], ["| 0", "yes"], ["| 3", ""]]
    for least, number, line in ((0.3, 1, ""), (0.5, 2, ""), (9.5, 0, "; the nearest has 9")):
        sweep = limited(least, "maximize")
        trial = report.pick_winner(sweep, study)
        assert trial is not None
        assert trial.number == number
        assert report.limits_line(sweep, trial).endswith(line)
    one = new_study("val/mcd", directions=["maximize"])
    for value in (1.0, 3.0, 3.0, 2.0):
        add(one, [value])
    assert [trial.number for trial in report.best_first(one)] == [1, 2, 3, 0]
    assert [trial.number for trial in report.front(one)] == [1]
    assert "best is 1: val/mcd 3 with" in report.summary(one)


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

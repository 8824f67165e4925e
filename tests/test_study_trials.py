"""What a study makes of what its trials report, without Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from power_cut_fixtures import ONE, TWO, sweep

from dimts.core.errors import UserError
from dimts.tuning.config import Direction
from dimts.tuning.outcomes import outcome
from dimts.tuning.report import front, limits_line
from dimts.tuning.study import Assignment, Ending, Outcome, SweepStudy, same_failure
from dimts.tuning.sweep_logger import note

pytest_plugins = ("power_cut_fixtures",)
pytestmark = pytest.mark.usefixtures("fast_disk")


# What is told


def first(tmp_path: Path, **changes: Any) -> tuple[SweepStudy, Assignment]:
    study = SweepStudy(sweep(**changes), tmp_path)
    assignment = study.next()
    assert assignment is not None
    return study, assignment


def test_validation_that_is_told_twice_is_stored_once(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    study, (number, _) = first(tmp_path)
    study.reported(number, 1, 2.0)
    study.reported(number, 2, 3.0)
    study.reported(number, 1, 9.0)
    study.reported(number, 2, 1.0)
    study.end(number, Ending("failed", {}, 2, 2, 1.0))
    trial = study.trials[number]
    assert trial.intermediate_values == {1: 2.0, 2: 2.0}, "lowest so far"
    assert trial.user_attrs["rung_2"] == 2.0
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_loss_that_is_no_number_hides_no_earlier_one(tmp_path: Path) -> None:
    study, (number, _) = first(tmp_path, early_stopping={"first": 3})
    for validation, value in enumerate((2.0, math.nan, 1.0), start=1):
        study.reported(number, validation, value)
    study.end(number, Ending("failed", {}, 3, 3, 1.0))
    trial = study.trials[number]
    assert trial.intermediate_values == {1: 2.0, 3: 1.0}
    assert math.isnan(trial.user_attrs["rung_2"])


def test_trial_that_is_to_stop_is_told_so_again_and_nothing_more_is_stored(tmp_path: Path) -> None:
    study, (number, _) = first(tmp_path)
    assert study.reported(number, 1, math.nan)
    assert study.reported(number, 2, 0.1), "it goes on until it notices"
    study = SweepStudy(study.config, tmp_path)
    assert study.next() == (number, {"lr": 1e-3, "freeze": []})
    assert study.reported(number, 2, 0.1)
    assert study.trials[number].intermediate_values == {}
    assert "rung_2" not in study.trials[number].user_attrs


def test_trial_that_passed_a_rung_is_not_judged_there_again(tmp_path: Path) -> None:
    """It stood well among the few that were known; a better one came while it was interrupted."""
    study, (number, values) = first(tmp_path, parallel=2, early_stopping={"min_trials": 2})
    other = study.next()
    assert other is not None
    assert not study.reported(number, 1, 2.0)
    assert not study.reported(other.number, 1, 1.0)
    study = SweepStudy(study.config, tmp_path)
    assert study.next() == (number, values)
    assert not study.reported(number, 1, 2.0), "told again by the checkpoint it goes on from"
    assert study.reported(number, 2, 2.0) == study.reported(number, 2, 2.0)


@pytest.mark.parametrize("kind", ["diverged", "stopped early"])
def test_trial_that_diverged_shows_the_sampler_no_loss(tmp_path: Path, kind: Outcome) -> None:
    """Optuna ranks the unfinished by how far they came, and those without a loss last."""
    study, (number, _) = first(tmp_path, early_stopping={"first": 2})
    study.reported(number, 1, 2.0)
    assert study.reported(number, 2, math.nan)
    assert study.end(number, Ending(kind, {}, 2, 2, 1.0)) == "diverged"
    assert study.trials[number].intermediate_values == {}
    assert outcome(study.trials[number]) == "diverged"


def test_objectives_in_another_order_are_refused(tmp_path: Path) -> None:
    SweepStudy(sweep(objectives=TWO, early_stopping=None), tmp_path)
    turned = dict(reversed(TWO.items()))
    with pytest.raises(
        UserError, match=r"in the order val/mcd, forgetting/mcd_change.*sweep.name"
    ) as error:
        SweepStudy(sweep(objectives=turned, early_stopping=None), tmp_path)
    assert f"--set sweep.known_good_from={tmp_path} " in str(error.value)
    SweepStudy(sweep(objectives=TWO, early_stopping=None), tmp_path)


def test_trial_stopped_early_is_never_the_best(tmp_path: Path) -> None:
    study = SweepStudy(sweep(early_stopping={"min_trials": 2}), tmp_path)
    low, high = study.next(), study.next()
    assert low is not None
    assert high is not None
    study.reported(low.number, 1, 0.001)
    study.end(low.number, Ending("stopped early", {"val/total_loss": 0.001}, 1, 1, 1.0))
    assert not front(study.study)
    study.reported(high.number, 1, 5.0)
    study.end(high.number, Ending("finished", {"val/total_loss": 5.0}, 4, 4, 1.0))
    assert [t.number for t in front(study.study)] == [high.number]
    assert study.trials[low.number].state == TrialState.PRUNED


@pytest.mark.parametrize("objectives", [ONE, TWO])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_trial_without_an_objective_has_diverged(
    tmp_path: Path, objectives: dict[str, str], value: float
) -> None:
    study, (number, _) = first(tmp_path, objectives=objectives)
    last = list(objectives)[-1]
    metrics = dict.fromkeys(objectives, 1.0) | {last: value}
    assert study.end(number, Ending("finished", metrics, 4, 4, 1.0)) == "diverged"
    trial = study.trials[number]
    assert trial.state == TrialState.PRUNED
    assert outcome(trial) == "diverged"
    assert (last if math.isnan(value) else "an objective") in trial.user_attrs["reason"]
    assert not front(study.study)


def test_interrupted_trial_is_handed_out_before_a_new_one(tmp_path: Path) -> None:
    study, zero = first(tmp_path, parallel=2)
    one = study.next()
    assert one is not None
    assert (zero.number, one.number) == (0, 1)
    study.release(0)
    assert study.next() == (0, zero.values)
    two = study.next()
    assert two is not None
    assert two.number == 2


def test_winner_that_keeps_no_limit_is_told_of(tmp_path: Path) -> None:
    study = SweepStudy(sweep(objectives=TWO, early_stopping=None), tmp_path)
    for mcd, forgetting in ((2.0, 0.9), (1.0, 1.5)):
        assignment = study.next()
        assert assignment is not None
        reached = {"val/mcd": mcd, "forgetting/mcd_change": forgetting}
        study.end(assignment.number, Ending("finished", reached, 1, 1, 1.0))
    strict, mild = (sweep(objectives=TWO, limits={"forgetting/mcd_change": n}) for n in (0.5, 0.9))
    line = "no trial keeps limits.forgetting/mcd_change=0.5; the nearest has 0.9"
    assert limits_line(strict, study.trials[0]) == line
    assert note(strict, study.study, 0).endswith(f"The voice is that of trial 000.\n\n{line}")
    assert limits_line(mild, study.trials[0]) == ""
    assert note(mild, study.study, 0).endswith("The voice is that of trial 000.")


@pytest.mark.parametrize("selection", ["minimize", "maximize"])
@pytest.mark.parametrize("objective", ["minimize", "maximize"])
def test_either_direction_of_an_objective_and_of_what_rungs_compare(
    tmp_path: Path, selection: Direction, objective: Direction
) -> None:
    config = sweep(
        objectives={"val/mcd": objective}, early_stopping={"first": 4, "min_trials": 2},
        validations=5, parallel=4,
    )  # fmt: skip
    study = SweepStudy(config, tmp_path, selection=selection)
    first, second, third = (study.next() for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    sign = 1 if selection == "minimize" else -1
    for validation, value in ((1, 3.0), (2, 2.0), (3, math.nan), (4, 4.0)):
        assert not study.reported(first.number, validation, sign * value)
    rungs = [study.trials[0].user_attrs[f"rung_{n}"] for n in (1, 2, 4)]
    assert rungs == [sign * 3, sign * 2, sign * 2], "the best so far"
    assert not study.reported(second.number, 4, sign * 1.0), "it is better"
    assert study.reported(third.number, 4, sign * 5.0), "it is worse than both"
    for assignment, value in ((first, 3.0), (second, 5.0), (third, 4.0)):
        study.end(assignment.number, Ending("finished", {"val/mcd": value}, 4, 4, 1.0))
    best = first if objective == "minimize" else second
    assert [t.number for t in front(study.study)] == [best.number]
    assert study.study.best_trial.number == best.number
    turned = 1 if objective == "minimize" else -1
    assert study.trials[0].intermediate_values == {
        1: turned * 3, 2: turned * 2, 4: turned * 2,
    }, "Optuna ranks those that were stopped as it ranks the objective"  # fmt: skip


# One reason


def ended_study(tmp_path: Path, *endings: tuple[Outcome, str]) -> SweepStudy:
    study = SweepStudy(sweep(early_stopping=None), tmp_path)
    for kind, reason in endings:
        assignment = study.next()
        assert assignment is not None
        figures = {"val/total_loss": 1.0}
        study.end(assignment.number, Ending(kind, figures, 1, 1, 1.0, reason))
    return study


@pytest.mark.parametrize(
    ("endings", "reason"),
    [
        ([("failed", "a")] * 2, None),
        ([("failed", "a")] * 3, "a"),
        ([("failed", "a")] * 2 + [("failed", "b")], None),
        ([("failed", "a")] * 2 + [("diverged", "a")], None),
        ([("finished", "")] + [("failed", "a")] * 3, None),
        ([("failed", "a")] * 3 + [("finished", "")], None),  # its cause was mended meanwhile
    ],
)
def test_first_trials_that_all_fail_alike_say_why(
    tmp_path: Path, endings: list[tuple[Outcome, str]], reason: str | None
) -> None:
    assert same_failure(ended_study(tmp_path, *endings).trials) == reason

"""A sweep's study without Ray: whatever interrupts it, it goes on to the same end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from power_cut_fixtures import (
    ONE,
    SPACE,
    TWO,
    EachSecondParameter,
    Worker,
    figures,
    power_cuts,
    sweep,
    told,
)

from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import is_known_good, outcome
from dimts.tuning.report import exhausted_line, front
from dimts.tuning.space import stored
from dimts.tuning.study import Assignment, Ending, Outcome, SweepStudy, settings_of
from dimts.tuning.sweep_logger import note

pytest_plugins = ("power_cut_fixtures",)
pytestmark = pytest.mark.usefixtures("fast_disk")


# Interrupted


@pytest.mark.parametrize(
    ("sampler", "objectives", "every"),
    [
        ("tpe", ONE, 9),
        pytest.param("tpe", ONE, 11, marks=pytest.mark.integration),
        pytest.param("random", ONE, 13, marks=pytest.mark.integration),
        pytest.param("tpe", TWO, 10, marks=pytest.mark.integration),
    ],
)
def test_interrupted_study_ends_as_an_undisturbed_one(
    tmp_path: Path, sampler: str, objectives: dict[str, str], every: int
) -> None:
    """Cut off at every n-th write, which is another one of a trial's each time."""
    config = sweep(sampler=sampler, objectives=objectives)
    undisturbed = Worker(config, tmp_path / "undisturbed").run()
    with power_cuts(lambda n, *_: n % every == 0) as cuts:
        cut = Worker(config, tmp_path / "cut").run()
    assert len(cuts) > 12
    assert {outcome(t) for t in undisturbed.trials} >= {"finished", "stopped early"}
    assert told(cut) == told(undisturbed)
    assert [t.number for t in front(cut.study)] == [t.number for t in front(undisturbed.study)]


def test_settings_that_were_drawn_in_part_are_drawn_on_as_they_would_have_been(
    tmp_path: Path,
) -> None:
    config = sweep(trials=4)
    undisturbed = Worker(config, tmp_path / "undisturbed").run()
    with power_cuts(EachSecondParameter()) as cuts:
        cut = Worker(config, tmp_path / "cut").run()
    assert len(cuts) >= 3
    assert told(cut) == told(undisturbed)


def test_more_trials_continue_the_same_sequence(tmp_path: Path) -> None:
    few = Worker(sweep(trials=5), tmp_path / "grown").run()
    assert len(few.trials) == 5
    grown = Worker(sweep(trials=8), tmp_path / "grown").run()
    assert told(grown) == told(Worker(sweep(trials=8), tmp_path / "at_once").run())


def test_seed_decides_what_is_tried(tmp_path: Path) -> None:
    settings = [
        [settings_of(t) for t in study.trials]
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
        if (study := Worker(sweep(seed=seed, trials=4), tmp_path / name).run())
    ]
    assert settings[0] == settings[1]
    assert settings[0][0] == settings[2][0] == {"lr": 1e-3, "freeze": []}, "known to be good"
    assert all(a != b for a, b in zip(settings[0][1:], settings[2][1:], strict=True))


# A space with few settings


FEW = {
    "lr": {"type": "float", "low": 0.01, "high": 0.05, "step": 0.02},
    "freeze": {"type": "categorical", "choices": ["n_base", [0, 1]]},
    "blocks": {"type": "int", "low": 1, "high": 5, "step": 2, "when": {"freeze": [[0, 1]]}},
}
"""Three rates, each beside four ways to freeze: twelve settings."""


def few(**changes: Any) -> SweepConfig:
    return sweep(**{"space": FEW, "trials": 40, "known_good": [{"freeze": "n_base"}]} | changes)


def run_in_parallel(config: SweepConfig, folder: Path, n: int) -> SweepStudy:
    """The study after `n` trials at a time, of which some fail."""
    study = SweepStudy(config, folder)
    running: list[Assignment] = []
    while True:
        while len(running) < n and (assignment := study.next()) is not None:
            running.append(assignment)
        if not running:
            return study
        assignment = running.pop(0)
        kind: Outcome = "failed" if assignment.number % 3 == 1 else "finished"
        study.end(assignment.number, Ending(kind, figures(assignment), 1, 1, 1.0))


def params_of(study: SweepStudy) -> list[str]:
    """Of all trials that were begun; what Optuna knows of each is what it trains."""
    for trial in study.trials:
        assert trial.params == stored(study.config.space, settings_of(trial))
    return [str(sorted(trial.params.items())) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_setting_of_a_finite_space_is_tried_once(
    tmp_path: Path, sampler: str, parallel: int, seed: int
) -> None:
    config = few(sampler=sampler, parallel=parallel, seed=seed)
    study = run_in_parallel(config, tmp_path, parallel)
    found = params_of(study)
    assert len(found) == len(set(found)) == study.n_trials == 12
    assert {outcome(trial) for trial in study.trials} == {"finished", "failed"}
    assert [trial.number for trial in study.trials if is_known_good(trial)] == [0]
    assert study.trials[0].params["freeze"] == "n_base"
    line = exhausted_line(config, study.trials)
    assert line == (
        "the space has 12 distinct settings, all were tried; sweep.trials=40 would train them again"
    )
    assert line in note(config, study.study, None)


def test_two_choices_are_two_trials_and_more_trials_are_none(tmp_path: Path) -> None:
    space = {"batch": {"type": "categorical", "choices": [2, 4]}}
    config = sweep(space=space, known_good=[], trials=6)
    study = SweepStudy(config, tmp_path)
    assert study.n_trials == 2
    assert "2 distinct settings, each of which is tried once; sweep.trials=6" in (
        exhausted_line(config, study.trials)
    )
    for _ in range(2):
        assignment = study.next()
        assert assignment is not None
        study.end(assignment.number, Ending("finished", {"val/total_loss": 1.0}, 1, 1, 1.0))
    for trials in (6, 60):
        study = SweepStudy(sweep(space=space, known_good=[], trials=trials), tmp_path)
        assert study.next() is None
        assert study.n_trials == 2
    assert sorted(trial.params["batch"] for trial in study.trials) == [2, 4]
    assert exhausted_line(sweep(space=space, known_good=[], trials=2), study.trials) == ""


@pytest.mark.integration
def test_interrupted_study_of_a_finite_space_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = Worker(few(), tmp_path / "undisturbed").run()
    with power_cuts(lambda n, *_: n % 9 == 0) as cuts:
        cut = Worker(few(), tmp_path / "cut").run()
    assert len(cuts) > 12
    assert len(params_of(undisturbed)) == 12
    assert told(cut) == told(undisturbed)
    grown = Worker(few(trials=5), tmp_path / "grown").run()
    assert len(grown.trials) == 5
    assert exhausted_line(few(trials=5), grown.trials) == ""
    assert told(Worker(few(), tmp_path / "grown").run()) == told(undisturbed)


def test_setting_that_was_chosen_before_a_power_cut_is_the_next_trials(tmp_path: Path) -> None:
    """Each is chosen, and the write by which its trial begins does not take place at first."""
    cut: set[int] = set()

    def is_first_begin(n: int, statement: str, values: Any) -> bool:
        if not statement.startswith("UPDATE trials SET state=?, datetime_start=?"):
            return False
        is_new = values[-1] not in cut
        cut.add(values[-1])
        return is_new

    config = few(trials=4)
    with power_cuts(is_first_begin) as cuts:
        study = Worker(config, tmp_path / "cut").run()
    assert len(cuts) == 4
    assert len(study.study.get_trials()) == 4, "none waits that nobody will begin"
    assert told(study) == told(Worker(config, tmp_path / "undisturbed").run())


def test_setting_without_a_continuous_parameter_is_tried_once_beside_others(
    tmp_path: Path,
) -> None:
    """Two of three kinds are one setting each, the third has as many as one likes."""
    space = {
        "freeze": {"type": "categorical", "choices": ["n_base", [0, 1], 0]},
        "lr": {**SPACE["lr"], "when": {"freeze": 0}},
    }
    config = sweep(space=space, known_good=[], trials=12, parallel=3, early_stopping=None)
    study = SweepStudy(config, tmp_path)
    while (assignment := study.next()) is not None:
        study.end(assignment.number, Ending("finished", {"val/total_loss": 1.0}, 1, 1, 1.0))
    found = params_of(study)
    assert len(found) == len(set(found)) == 12
    assert exhausted_line(config, study.trials) == ""


def test_setting_known_to_be_good_is_tried_once_however_it_is_written(tmp_path: Path) -> None:
    points: list[dict[str, Any]] = [
        {"lr": 0.03, "freeze": [0, 1]},
        {"lr": math.nextafter(0.03, 1), "freeze": [0, 1]},
        {"freeze": [0, 1]},
        {"lr": 0.05},
    ]
    study = SweepStudy(few(known_good=points), tmp_path)
    begun = [study.next() for _ in range(3)]
    assert begun[0] is not None
    assert begun[0].values.items() >= points[0].items()
    assert begun[1] is not None
    assert begun[1].values["lr"] == 0.05
    assert [is_known_good(trial) for trial in study.trials] == [True, True, False]


def test_study_that_has_tried_a_setting_twice_goes_on_with_the_others(tmp_path: Path) -> None:
    """As a sweep was that was begun before this was looked at."""
    space = {"batch": {"type": "categorical", "choices": [2, 4]}}
    config = sweep(space=space, known_good=[], trials=6)
    study = SweepStudy(config, tmp_path)
    for _ in range(3):
        study.study.enqueue_trial({"batch": 4})
    begun = []
    while (assignment := study.next()) is not None:
        begun.append(assignment.values["batch"])
        study.end(assignment.number, Ending("finished", {"val/total_loss": 1.0}, 1, 1, 1.0))
    assert begun == [4, 4, 4, 2]

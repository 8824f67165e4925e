"""A sweep's study without Ray: whatever interrupts it, it goes on to the same end."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.tuning.config import Direction, SweepConfig
from dimts.tuning.outcomes import is_known_good, outcome
from dimts.tuning.report import exhausted_line, front, limits_line
from dimts.tuning.space import stored
from dimts.tuning.study import Assignment, Ending, Outcome, SweepStudy, same_failure
from dimts.tuning.sweep_logger import note

ONE = {"val/total_loss": "minimize"}
TWO = {"val/mcd": "minimize", "forgetting/mcd_change": "minimize"}
SPACE: dict[str, dict[str, Any]] = {
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "freeze": {"type": "categorical", "choices": [0, 0.5, "n_base", [0, 1], []]},
    "blocks": {"type": "int", "low": 1, "high": 4, "when": {"freeze": ["n_base", 0]}},
}
VALIDATIONS = 4


def sweep(**changes: Any) -> SweepConfig:
    settings = {
        "name": "t",
        "trials": 9,
        "parallel": 1,
        "startup_trials": 3,
        "objectives": ONE,
        "space": SPACE,
        "known_good": [{"lr": 1e-3, "freeze": []}],
    }
    return build_config(SweepConfig, settings | changes)


def loss(assignment: Assignment, validation: int) -> float:
    """What a made-up training reaches."""
    values = assignment.values
    if values["lr"] > 0.08:
        return math.nan
    distance = abs(math.log10(values["lr"]) + 2)
    return distance + 0.3 * (values["freeze"] != "n_base") + 1 / validation


def figures(assignment: Assignment) -> dict[str, float]:
    reached = loss(assignment, VALIDATIONS)
    return {
        "val/total_loss": reached,
        "val/mcd": reached,
        "forgetting/mcd_change": assignment.values["lr"],
    }


class PowerCut(Exception):
    """The process ended here."""


@pytest.fixture(autouse=True)
def _fast_disk() -> Iterator[None]:
    """SQLite does not wait for the disk: no power is cut here but by ourselves."""

    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


Cut = Callable[[int, str, Any], bool]
"""(how many writes there were, a write's SQL, its values) -> whether it does not take place."""


@contextmanager
def power_cuts(is_cut: Cut) -> Iterator[list[str]]:
    """Inside, some writes to any database do not take place; gives those that did not."""
    n, cut = 0, []

    def before_write(
        connection: object, cursor: object, statement: str, values: Any, *rest: object
    ) -> None:
        nonlocal n
        if statement.startswith(("INSERT", "UPDATE")):
            n += 1
            if is_cut(n, statement, values):
                cut.append(statement)
                raise PowerCut

    event.listen(Engine, "before_cursor_execute", before_write)
    try:
        yield cut
    finally:
        event.remove(Engine, "before_cursor_execute", before_write)


class EachSecondParameter:
    """Writes that do not take place: of each trial's second parameter, the first time."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, n: int, statement: str, values: Any) -> bool:
        if not statement.startswith("INSERT INTO trial_params") or values[1] != "freeze":
            return False
        trial = str(values[0])
        is_new = trial not in self.seen
        self.seen.add(trial)
        return is_new


class Worker:
    """Runs a study's trials one after the other; what a trial has trained survives it."""

    def __init__(self, config: SweepConfig, folder: Path):
        self.config, self.folder = config, folder
        folder.mkdir(exist_ok=True)
        self.validated: dict[int, int] = {}

    def run(self) -> SweepStudy:
        while True:
            try:
                study = SweepStudy(self.config, self.folder)
                while (assignment := study.next()) is not None:
                    self._train(study, assignment)
                return study
            except PowerCut:
                continue

    def _train(self, study: SweepStudy, assignment: Assignment) -> None:
        number = assignment.number
        stop = False
        for validation in range(max(1, self.validated.get(number, 1)), VALIDATIONS + 1):
            self.validated[number] = validation
            if stop := study.reported(number, validation, loss(assignment, validation)):
                break
        kind: Outcome = "stopped early" if stop else "finished"
        study.end(number, Ending(kind, figures(assignment), validation, 10 * validation, 1.0))


def told(study: SweepStudy) -> list[Any]:
    """All that may not depend on interruptions."""
    return [
        (
            t.number, t.state.name, t.params, t.values, t.intermediate_values,
            {k: v for k, v in t.user_attrs.items() if k.startswith("rung_")},
            study.values(t), outcome(t),
        )
        for t in study.trials
    ]  # fmt: skip


# Interrupted


@pytest.mark.parametrize(
    ("sampler", "objectives", "every"),
    [("tpe", ONE, 9), ("tpe", ONE, 11), ("random", ONE, 13), ("tpe", TWO, 10)],
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
        [study.values(t) for t in study.trials]
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


def settings_of(study: SweepStudy) -> list[str]:
    """Of all trials that were begun; what Optuna knows of each is what it trains."""
    for trial in study.trials:
        assert trial.params == stored(study.config.space, study.values(trial))
    return [str(sorted(trial.params.items())) for trial in study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_setting_of_a_finite_space_is_tried_once(
    tmp_path: Path, sampler: str, parallel: int, seed: int
) -> None:
    config = few(sampler=sampler, parallel=parallel, seed=seed)
    study = run_in_parallel(config, tmp_path, parallel)
    found = settings_of(study)
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


def test_interrupted_study_of_a_finite_space_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = Worker(few(), tmp_path / "undisturbed").run()
    with power_cuts(lambda n, *_: n % 9 == 0) as cuts:
        cut = Worker(few(), tmp_path / "cut").run()
    assert len(cuts) > 12
    assert len(settings_of(undisturbed)) == 12
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
    found = settings_of(study)
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

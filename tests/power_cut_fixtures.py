"""Sweeps of a made-up training, and a database in whose writes the power may be cut."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from dimts.core.config import build_config
from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import outcome
from dimts.tuning.study import Assignment, Ending, Outcome, SweepStudy, settings_of

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


@pytest.fixture
def fast_disk() -> Iterator[None]:
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
            settings_of(t), outcome(t),
        )
        for t in study.trials
    ]  # fmt: skip

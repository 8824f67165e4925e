"""Sweeps of the tiny voice: their spaces, `jobs/tune.py` as a process, and what they come to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from dimts.commands.sweep_config import load_sweep
from dimts.tuning.outcomes import outcome
from dimts.tuning.report import front
from dimts.tuning.study import SweepStudy

ROOT = Path(__file__).parents[1]
LR = "training.optimizer.learning_rate"
BATCH = "training.batch_size"
SPACE: dict[str, dict[str, Any]] = {
    LR: {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    BATCH: {"type": "categorical", "choices": [2, 4]},
}
SWEEP = {
    "name": "small",
    "trials": 4,
    "parallel": 1,
    "startup_trials": 2,
    "early_stopping": {"min_trials": 3},
    "space": SPACE,
    "known_good": [{LR: 1e-2, BATCH: 4}],
}
POLL_S = 0.02
PATIENCE_S = 240


def one_of(*choices: Any, **more: Any) -> dict[str, Any]:
    """A parameter of a space: one of these choices."""
    return {"type": "categorical", "choices": list(choices), **more}


def write_space(folder: Path, **changes: Any) -> Path:
    """A space's file: `SWEEP` with changes."""
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({"sweep": SWEEP | changes}, sort_keys=False), encoding="utf-8")
    return file


def study_of(configs: Sequence[Path], overrides: Sequence[str]) -> SweepStudy:
    """The study that a command has left."""
    plan = load_sweep(configs, overrides).plan()
    return SweepStudy(plan.sweep, plan.folder)


def told(study: SweepStudy) -> list[Any]:
    """All that interruptions may not change of a sweep of one trial at a time; last its winners."""
    trials = [
        (
            trial.number, outcome(trial), trial.state.name, trial.params, trial.values,
            trial.intermediate_values,
            {k: v for k, v in trial.user_attrs.items() if k.startswith("rung_")},
        )
        for trial in study.trials
    ]  # fmt: skip
    return [*trials, [trial.number for trial in front(study.study)]]


def steps_of(run_dir: Path) -> list[int]:
    """Steps of training that a trial has recorded, in the order in which it did them."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [e["step"] for e in events if "train/total_loss" in e.get("values", {})]


def wait_until(happened: Callable[[], bool], job: TuneJob) -> None:
    """Look until something has happened; a job that ends before is an error of the test."""
    until = time.monotonic() + PATIENCE_S
    while not happened():
        assert job.process.poll() is None, job.result()
        assert time.monotonic() < until, "it did not happen"
        time.sleep(POLL_S)


def status_of(pid: int) -> list[str] | None:
    """What Linux says of a process, from its state on; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields


def parent_of(pid: int) -> int | None:
    """The process that another one is of; None if that has ended."""
    status = status_of(pid)
    return int(status[1]) if status else None


def started_at(pid: int) -> str | None:
    """Tells a process from a later one that has got its number; None if it has ended."""
    status = status_of(pid)
    return status[19] if status else None


def wait_until_gone(processes: Mapping[int, str | None]) -> None:
    """Until all of them, id -> when it was started, have ended."""
    until = time.monotonic() + PATIENCE_S
    left = dict(processes)
    while left := {pid: at for pid, at in left.items() if at and started_at(pid) == at}:
        assert time.monotonic() < until, f"processes that do not end: {sorted(left)}"
        time.sleep(POLL_S)


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and those that they have."""
    parents = {int(p.name): parent_of(int(p.name)) for p in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def holds(pid: int, run_dir: Path) -> bool:
    """Whether a process has a trial's lock open."""
    lock, is_open = str(run_dir / "lock"), False
    with suppress(FileNotFoundError):
        is_open = any(os.readlink(fd) == lock for fd in Path(f"/proc/{pid}/fd").iterdir())
    return is_open


class TuneJob:
    """`jobs/tune.py` in a session of its own."""

    def __init__(self, configs: Sequence[Path], *overrides: str) -> None:
        command = [sys.executable, str(ROOT / "jobs" / "tune.py")]
        command += [part for config in configs for part in ("--config", str(config))]
        command += [part for override in overrides for part in ("--set", override)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self) -> tuple[int, str, str]:
        """How it ended, and what it said."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err

    def trial_process(self, run_dir: Path) -> int:
        """The process that holds a trial's lock, as soon as there is one."""
        found: list[int] = []

        def is_there() -> bool:
            found.extend(pid for pid in descendants(self.process.pid) if holds(pid, run_dir))
            return bool(found)

        wait_until(is_there, self)
        return found[0]

    def kill_driver(self) -> None:
        """SIGKILL to the job itself; what Ray started for it may end a little later."""
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C in a terminal, which all processes of the job get."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.result()

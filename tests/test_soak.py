"""What the benchmarks of faults make of a run's record, and the soak itself for half a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.injection import Training, with_files_in
from faults.kinds import interruption

from benchmarks.soak import Event, cost, table
from dimts.tracking.event_log import EVENTS, append_event

ROOT = Path(__file__).parents[1]


def step(number: int, at: float) -> dict[str, Any]:
    return {"time": at, "step": number, "values": {"train/total_loss": 1.0}}


def start(at: float) -> dict[str, Any]:
    return {"time": at, "start": {"host": "here", "pid": 1}}


RECORD = [
    start(0.0), step(20, 1.0), step(40, 2.0), step(60, 3.0),
    start(9.0), step(40, 10.0), step(60, 11.0), step(80, 12.0),
]  # fmt: skip


def test_steps_that_were_computed_again_are_counted_from_the_fault_on() -> None:
    assert cost(RECORD, n_before=4, begin=3.5) == (40, 6.5)
    assert cost(RECORD, n_before=6, begin=10.5) == (0, 1.0)
    assert cost(RECORD[:4], n_before=3, begin=2.5) == (0, 0.5)


def test_interruption_is_from_the_fault_or_the_last_step_before_it(tmp_path: Path) -> None:
    training = Training([], [], tmp_path)
    for event in RECORD:
        append_event(tmp_path, event)
    assert (tmp_path / EVENTS).exists()
    assert interruption(training, begin=3.5) == (21, 6.5)
    assert interruption(training, begin=2.5) == (21, 7.0), "it went on for a while"


def test_table_has_a_row_for_each_kind_of_fault() -> None:
    events = [Event("a", True, 20, 4.0), Event("b", False, 0, 1.0), Event("a", True, 40, 8.0)]
    assert table(events).splitlines()[2:] == [
        "| a | 2 | 2 | 30 (20-40) | 6.0 (4.0-8.0) |",
        "| b | 1 | 0 | 0 (0-0) | 1.0 (1.0-1.0) |",
    ]


def test_process_that_hides_its_environment_is_found_by_its_log(tmp_path: Path) -> None:
    waits = [sys.executable, "-c", "input()"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=log, env={}) as process,
    ):
        try:
            assert with_files_in(tmp_path) == sorted([os.getpid(), process.pid])
        finally:
            process.kill()
    assert with_files_in(tmp_path) == []


@pytest.mark.slow
def test_soak_of_half_a_minute() -> None:
    """On the sample corpus, which must have been prepared; with the rights of root."""
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "0.5", "--every", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the same, bit for bit: yes" in done.stdout
    assert ", 0, 0, 0" in done.stdout
    assert "- processes left over: 0" in done.stdout

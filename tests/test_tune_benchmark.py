"""The sweep benchmark says what its sweeps did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.tune import Sweep, Trial, best_loss, cost_lines, reached, search_table

ROOT = Path(__file__).parents[1]
RANDOM = Sweep([Trial(0.9, 100, 0, 10), Trial(0.5, 100, 10, 20), Trial(0.7, 100, 20, 30)], 30.0, 1)
STOPPING = Sweep(
    [Trial(0.8, 100, 0, 10), Trial(None, 25, 10, 12), Trial(0.4, 100, 12, 24)], 30.0, 1
)


def test_best_loss_is_of_the_trials_that_fit_into_the_frames() -> None:
    assert best_loss(RANDOM) == 0.5
    assert best_loss(RANDOM, frames=199) == 0.9
    assert best_loss(STOPPING, frames=225) == 0.4
    assert best_loss(STOPPING, frames=224) == 0.8


def test_stopped_trials_cost_frames_but_are_never_best() -> None:
    assert reached(STOPPING, 0.5) == (225, 24)
    assert reached(STOPPING, 0.3) == (float("inf"), float("inf"))


def test_arms_are_measured_by_what_random_search_used_and_found() -> None:
    table = search_table({("random", 0): RANDOM, ("tpe_asha", 0): STOPPING}, ["random", "tpe_asha"])
    random, ours = table.splitlines()[2:4]
    assert "| 0.67 (0.67-0.67) |" in random
    assert "| 0.400 (0.400-0.400) |" in ours
    assert "| 0.75 (0.75-0.75) |" in ours


def test_what_was_not_found_is_never_not_a_number() -> None:
    worse = Sweep([Trial(0.6, 300, 0, 30)], 30.0, 1)
    table = search_table({("random", 0): RANDOM, ("tpe", 0): worse}, ["random", "tpe"])
    assert "never (never-never)" in table.splitlines()[3]


def test_cost_of_a_trial_is_that_of_random_search() -> None:
    lines = cost_lines({("random", 0): RANDOM, ("tpe_asha", 0): STOPPING}, bare=8.0)
    assert "10.00 s" in lines and "8.00 s" in lines


@pytest.mark.slow
def test_benchmark_runs_real_sweeps_and_keeps_their_results(
    voice_file: Path, tmp_path: Path
) -> None:
    voice = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    command = [sys.executable, "benchmarks/tune.py", "--quick", f"--out={tmp_path}"]
    command += [f"--set=prepare.features={voice['prepare']['features']}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": "platform:."}
    for results in (2, 2):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "ASHA" in done.stdout
        assert len(list(tmp_path.glob("*.json"))) == results

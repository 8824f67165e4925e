"""The benchmark of an absent tracking server runs and measures what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_steps_are_timed_under_each_condition(voice_file: Path, tmp_path: Path) -> None:
    features = yaml.safe_load(voice_file.read_text("utf-8"))["prepare"]["features"]
    file = tmp_path / "away.json"
    command = [
        sys.executable, "benchmarks/tracking_away.py", "--quick", "--config", str(voice_file),
        "--features", features, "--json", str(file),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": "platform:."}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    slices = json.loads(file.read_text("utf-8"))["slices"]
    order = ["there", "refusing", "back", "there", "silent", "back", "there"]
    assert [one["condition"] for one in slices] == order
    for one in slices:
        assert len(one["seconds"]) == len(one["frames"]) == 3
        assert min(one["seconds"]) > 0 < min(one["frames"])
    away = [one["n_waiting"] for one in slices if one["condition"] in ("refusing", "silent")]
    assert min(away) >= 5, "all that was recorded in the slice"
    there, refusing, _, again, *_ = (one["median"] for one in slices)
    share = refusing / ((there + again) / 2) - 1
    [row] = [row for row in done.stdout.splitlines() if row.startswith("| killed: ")]
    assert f" | {share:+.2%} | " in row

"""Our T3 beside the published package's, in an environment that the benchmark makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_package_computes_the_same(tmp_path: Path) -> None:
    stored = tmp_path / "logits.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/chatterbox_parity.py"), "--store", str(stored)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["keys"] == 40 and found["same_ids"]
    assert found["logits"] <= 1e-5 and found["gradients"] <= 1e-5 and found["cached"] <= 1e-4
    golden = json.loads((ROOT / "tests/golden/chatterbox_tiny.json").read_text(encoding="utf-8"))
    assert json.loads(stored.read_text(encoding="utf-8"))["mean_magnitude"] == pytest.approx(
        golden["mean_magnitude"], rel=1e-4
    )

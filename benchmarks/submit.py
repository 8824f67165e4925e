"""How long it takes until a submitted job trains, beside the same job that is started here.

``python benchmarks/submit.py``: times from the command to the first step of the training, without
Ray, on a Ray of its own, and submitted to a cluster that runs already.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.tracking.event_log import EVENTS

# Before this folder, whose faults.py has the name of the package in tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults.head import Head, head
from faults.injection import ROOT

CONFIGS = ("jobs/configs/sample_am.yaml", "jobs/configs/models/tiny.yaml")
SHORT = (
    "training.max_steps=3", "training.validate_every=0", "training.sample_every=0",
    "training.log_every=1", "tracking.enabled=false",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each way (3)")
    parser.add_argument(
        "--features", type=Path, default=ROOT / "features/sample_am", help="prepared"
    )
    options = parser.parse_args(arguments)
    if not (options.features / "manifest.json").exists():
        raise UserError(f"{options.features}: no features; jobs/prepare.py makes them")
    folder = Path(tempfile.mkdtemp(prefix="dimts-submit-"))
    with head(folder) as cluster:
        ways: dict[str, Callable[[list[str]], None]] = {
            "without Ray": lambda words: _here([*words, "--set", "ray.workers=0"]),
            "on a Ray of its own": _here,
            "submitted": lambda words: _submitted(cluster, folder, words),
        }
        rows = [_row(way, start, folder, options) for way, start in ways.items()]
    shutil.rmtree(folder)
    print("| | the command to its first line | to the first step | to its end |")
    print("| --- | --- | --- | --- |")
    print("\n".join(rows))
    facts = ", ".join(map(str, machine_facts(["torch", "ray"]).values()))
    print(f"\nSeconds, medians of {options.times}, in brackets the least and the greatest. {facts}")
    return 0


def _row(
    way: str, start: Callable[[list[str]], None], folder: Path, options: argparse.Namespace
) -> str:
    times: list[tuple[float, float, float]] = []
    for number in range(options.times):
        name = f"{way.replace(' ', '-')}{number}"
        settings = [
            *SHORT, f"run.name={name}", f"run.storage={folder}",
            f"prepare.features={options.features.resolve()}",
        ]  # fmt: skip
        words = [f"--config={file}" for file in CONFIGS]
        begin = time.time()
        start(words + [f"--set={setting}" for setting in settings])
        end = time.time()
        lines = (folder / name / EVENTS).read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        first = next(e["time"] for e in events if "train/total_loss" in e.get("values", {}))
        times.append((events[0]["time"] - begin, first - begin, end - begin))
        print(f"{way}: {times[-1]}", file=sys.stderr, flush=True)
    spread = [
        f"{median(t):.1f} ({min(t):.1f}-{max(t):.1f})" for t in zip(*times, strict=True)
    ]  # fmt: skip
    return f"| {way} | {' | '.join(spread)} |"


def _here(words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"jobs/train.py failed: {done.stderr.strip()}")


def _submitted(cluster: Head, home: Path, words: list[str]) -> None:
    done = cluster.submit("env", f"DIMTS_HOME={home}", "python", "jobs/train.py", *words)
    if done.returncode:
        raise UserError(f"the submitted job failed: {done.stdout.strip()}")


if __name__ == "__main__":
    run_job(main)

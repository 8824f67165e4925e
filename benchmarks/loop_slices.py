"""What Ray adds to a step, on a machine whose speed drifts: both sides in slices of seconds.

    python benchmarks/loop_slices.py --features features/sample_am --threads 1

`benchmarks/loop.py` compares runs of a minute; where neighbours on the same host make the machine
faster and slower from minute to minute, that is what it sees. Here the same training runs bare and
under Ray's TorchTrainer at once, but only one of them at a time: every few seconds all processes of
one side, Ray's own among them, are stopped (SIGSTOP) and those of the other go on. Both
see the same batches in the same order, so step i of one is compared with step i of the other, done
seconds apart. The median over steps is not moved by the few that a stop falls into. What Ray's
processes beside the training use of a core is counted in the same slices.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.features.feature_set import FeatureSet
from dimts.tracking.event_log import EVENTS
from dimts.training.sampler import BucketSampler, Position

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/configs/sample_am.yaml"
SIDES = {"ray": 1, "bare": 0}
START_S = 120


class Side:
    """One training in a process of its own, which can be stopped and go on."""

    def __init__(self, name: str, options: argparse.Namespace, storage: Path):
        self.events = storage / name / EVENTS
        self.ran_s = 0.0
        self.cpu_s: dict[int, float] = {}
        settings = [
            f"prepare.features={options.features.absolute()}",
            f"run.storage={storage}",
            f"run.name={name}",
            f"ray.workers={SIDES[name]}",
            f"training.max_steps={options.warmup + options.steps}",
            f"training.threads={options.threads}",
            "training.adversarial=null",
            "training.log_every=1",
            "training.validate_every=0",
            "training.checkpoint_every=0",
            "training.sample_every=0",
            "tracking.enabled=false",
        ]
        command = [sys.executable, f"{ROOT}/jobs/train.py", f"--config={options.config}"]
        self.process = subprocess.Popen(
            [*command, *(f"--set={setting}" for setting in settings)],
            cwd=ROOT,
            env={"RAY_AUTH_MODE": "disabled", **os.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def frames_per_second(self) -> list[float]:
        """By the loop's own clock, of each step done so far."""
        if not self.events.exists():
            return []
        lines = self.events.read_text(encoding="utf-8").splitlines(keepends=True)
        values = (json.loads(line).get("values", {}) for line in lines if line.endswith("\n"))
        return [v["train/frames_per_second"] for v in values if "train/total_loss" in v]

    def wait_for_steps(self, n: int) -> None:
        deadline = time.monotonic() + START_S
        while len(self.frames_per_second()) < n:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UserError("a training did not get going; try jobs/train.py by itself")
            time.sleep(0.1)

    def run(self, seconds: float) -> None:
        """Let all of it go on for a while, and count the CPU time of each process."""
        before = {pid: cpu for pid, (_, cpu) in _processes().items()}
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        processes = _processes()
        for pid in _tree(self.process.pid):
            if pid in before and pid in processes:
                used = processes[pid][1] - before[pid]
                self.cpu_s[pid] = self.cpu_s.get(pid, 0.0) + used
        self.ran_s += seconds

    def cpu_beside(self) -> float:
        """Cores used by all processes but the busiest, which trains."""
        return (sum(self.cpu_s.values()) - max(self.cpu_s.values())) / self.ran_s

    def signal(self, number: signal.Signals) -> None:
        """To the process and to all that it started."""
        for pid in _tree(self.process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:  # ended meanwhile
                continue


def _processes() -> dict[int, tuple[int, float]]:
    """Of each process, its parent and the CPU seconds it has used (proc(5))."""
    found: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            ticks = int(fields[11]) + int(fields[12])
            found[int(entry.name)] = int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")
    return found


def _tree(root: int) -> list[int]:
    """A process and all that come from it."""
    processes, tree = _processes(), [root]
    for pid in tree:
        tree += [child for child, (parent, _) in processes.items() if parent == pid]
    return tree


def main() -> None:
    """Run both sides and print what Ray adds to a step."""
    options = _options()
    machine = machine_facts(("torch", "ray"))
    with tempfile.TemporaryDirectory(prefix="dimts-slices-") as folder:
        sides = []
        try:
            for name in SIDES:
                sides.append(Side(name, options, Path(folder)))
                sides[-1].wait_for_steps(2)
                sides[-1].signal(signal.SIGSTOP)
            measured = _alternate(sides, options)
        finally:
            for side in sides:
                side.signal(signal.SIGCONT)
                side.process.terminate()
            for side in sides:
                side.process.wait()
    ray, bare = ([1 / speed for speed in speeds[options.warmup :]] for speeds in measured)
    shares = [r / b - 1 for r, b in zip(ray, bare, strict=True)]
    low, high = _interval(shares)
    frames = _frames(options)[options.warmup :]
    step_ms = 1000 * statistics.median(s * f for s, f in zip(bare, frames, strict=False))
    print(
        f"Ray adds {statistics.median(shares):+.2%} to a step (95 % interval {low:+.2%} ... "
        f"{high:+.2%}); {len(shares)} steps of {step_ms:.0f} ms (bare, median), {options.threads} "
        f"torch threads, slices of {options.slice_s:g} s; its processes beside the training use "
        f"{sides[0].cpu_beside():.1%} of a core; " + ", ".join(map(str, machine.values()))
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="voice (sample_am.yaml)")
    parser.add_argument("--features", type=Path, required=True, help="prepared features")
    parser.add_argument("--steps", type=int, default=200, help="compared steps (200)")
    parser.add_argument("--warmup", type=int, default=40, help="steps before those (40)")
    parser.add_argument("--threads", type=int, default=n_cores(), help="of torch (all cores)")
    parser.add_argument("--slice-s", type=float, default=4.0, help="seconds of a slice (4)")
    return parser.parse_args()


def _alternate(sides: list[Side], options: argparse.Namespace) -> list[list[float]]:
    """Frames per second of each side's steps; the two take turns until both have done all."""
    total = options.warmup + options.steps
    while True:
        for side in sides:
            if len(side.frames_per_second()) < total:
                side.run(options.slice_s)
        done = [side.frames_per_second()[:total] for side in sides]
        if min(map(len, done)) == total:
            return done


def _interval(values: list[float]) -> tuple[float, float]:
    """Of the median, by the bootstrap (Efron 1979)."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


def _frames(options: argparse.Namespace) -> list[int]:
    """Frames of each step's batch."""
    config = load_config(VoiceConfig, [options.config], [])
    n_frames = FeatureSet.open(options.features).split("train").n_frames
    sampler = BucketSampler(n_frames, config.training.batch_size, config.training.seed)
    batches = sampler.following(Position(0, 0))
    return [int(n_frames[next(batches)[1]].sum()) for _ in range(options.warmup + options.steps)]


if __name__ == "__main__":
    run_job(main)

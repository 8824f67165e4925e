"""What a second node adds to a training: frames per second of two workers against one.

    python benchmarks/two_nodes.py                                 # on the sample corpus
    python benchmarks/two_nodes.py --features features/sample_am --batch-sizes 8 16
    python benchmarks/two_nodes.py --quick                         # does it run at all?

Clusters of Ray on this machine (`tests/faults/machines.py`), with a worker of one thread on each of
their nodes, whose processes are pinned to a core of their own: one worker on one node with
so many utterances a step, two workers on two nodes that share as many, and two that have as
many each. Each is `jobs/train.py` on its own cluster. They are there at once, but only one of them
runs at a time: every few seconds all processes of one are stopped (SIGSTOP) and those of the
next go on. Ratios are taken within a round of neighbouring slices. The clock is the loop's own,
which counts steps; the step that a stop falls into is left out. Gradients go from node to node by
Gloo through a virtual cable, whose ends are work for the same two cores, as are the nodes'
Rays, their head and the command.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.loop import CONFIG, TINY, sample_features
from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.tracking.event_log import EVENTS

# Before this folder, whose faults.py has the name of the package in tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults.machines import Nodes, job, ray_nodes

GOAL = 1.6
START_S = 240
POLL_S = 0.1
ENDLESS = 10**6


class Used(NamedTuple):
    """What a training has taken.

    Attributes:
        steps: that were done with it.
        sent_bytes: by a node.
        worker_s, beside_s: seconds of a core, by a worker and by all that is no worker.
    """

    steps: int
    sent_bytes: float
    worker_s: float
    beside_s: float

    def a_step(self, before: Used) -> Used:
        """Of each step since `before`."""
        steps = self.steps - before.steps
        used = [(now - then) / steps for now, then in zip(self[1:], before[1:], strict=True)]
        return Used(steps, *used)


class Side:
    """A training on a cluster of its own, which can be stopped and go on.

    Args:
        nodes: the cluster; it has a worker on each.
        arguments: of `jobs/train.py`.
        storage: folder of its run.

    Attributes:
        speeds: frames per second of each slice.
        steps: that were counted.
    """

    def __init__(self, nodes: Nodes, arguments: Sequence[str], storage: Path):
        self.nodes, self.speeds, self.steps = nodes, list[float](), 0
        self._events, self._said = storage / "run" / EVENTS, storage / "said.txt"
        own = [f"run.storage={storage}", "run.name=run", f"ray.workers={len(nodes.workers)}"]
        command = job("train", *arguments, *(f"--set={text}" for text in own))
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                nodes.head.command(*command), env=nodes.head.environment, stdout=said,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def done(self) -> list[tuple[float, float]]:
        """Frames and seconds of each step so far."""
        lines = self._events.read_bytes().splitlines(True) if self._events.exists() else []
        found, before = [], 0.0
        for line in lines:
            values = json.loads(line).get("values", {}) if line.endswith(b"\n") else {}
            if "train/total_loss" in values:
                frames, before = values["train/frames"] - before, values["train/frames"]
                found.append((frames, frames / values["train/frames_per_second"]))
        return found

    def wait_for_steps(self, n: int) -> None:
        """Let it go on until it has done so many.

        Raises:
            UserError: it does not.
        """
        deadline = time.monotonic() + START_S
        while len(self.done()) < n:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
                raise UserError(f"a training does not go on: {said[-1]}")
            time.sleep(POLL_S)

    def run(self, seconds: float) -> None:
        """Let all of it go on for a while, and count the steps that are wholly inside."""
        before = len(self.done())
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.wait_for_steps(before + 2)
        self.signal(signal.SIGSTOP)
        inside = self.done()[before + 1 :]
        frames, took = map(sum, zip(*inside, strict=True))
        self.speeds.append(frames / took)
        self.steps += len(inside)

    def signal(self, number: signal.Signals) -> None:
        """To all processes of its cluster, and to what waits for the command."""
        for machine in self.nodes.machines:
            machine.signal(number)
        self._process.send_signal(number)

    def used(self) -> Used:
        """Since the start."""
        one = self.nodes.workers[0]
        workers = sum(node.cpu_s("RayTrainWorker") for node in self.nodes.workers)
        everything = sum(machine.cpu_s() for machine in self.nodes.machines)
        return Used(
            len(self.done()), one.sent_bytes(), one.cpu_s("RayTrainWorker"), everything - workers
        )

    def hosts(self) -> list[str]:
        """Names of the machines that have a worker."""
        return [m.name for m in self.nodes.machines if m.started()["RayTrainWorker"]]

    def end(self) -> None:
        """The command's own end is that of its cluster."""
        self._process.kill()
        self._process.wait()


class Found(NamedTuple):
    """What came of one way to train.

    Attributes:
        workers, batch: how many, and utterances a step over all of them.
        speeds: frames per second of each slice.
        steps: that were counted.
        used: in the mean of a step.
        hosts: machines that had a worker.
    """

    workers: int
    batch: int
    speeds: list[float]
    steps: int
    used: Used
    hosts: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    machine = machine_facts(("torch", "ray"))
    rows: list[list[Found]] = []
    with tempfile.TemporaryDirectory(prefix="dimts-nodes-") as folder:
        if options.features is None:
            environment = {"RAY_AUTH_MODE": "disabled", **os.environ}
            options.features = sample_features(Path(folder), options.quick, environment)
        for size in options.batch_sizes:
            rows.append(_measure(size, options, Path(folder) / str(size)))
    print(_markdown(rows, options, machine))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="voice (sample_am.yaml)")
    parser.add_argument("--features", type=Path, help="prepared (default: the sample corpus)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16],
        help="utterances a step of one worker (8 16)",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--rounds", type=int, default=15, help="slices of each (15)")
    parser.add_argument("--slice-s", type=float, default=6.0, help="seconds of a slice (6)")
    parser.add_argument("--warmup", type=int, default=20, help="steps before the first (20)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, a few steps")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batch_sizes, options.rounds, options.warmup, options.slice_s = [4], 2, 2, 1.0
    if min(*options.batch_sizes, options.rounds, options.warmup) < 1:
        parser.error("--batch-sizes, --rounds and --warmup must be at least 1")
    return options


def _measure(size: int, options: argparse.Namespace, folder: Path) -> list[Found]:
    """One worker, two that share as many utterances a step, and two with as many each."""
    ways = [(1, size), (2, size), (2, 2 * size)]
    with ExitStack() as stack:
        sides = []
        for workers, batch in ways:
            own = folder / f"{workers}x{batch}"
            sides.append(stack.enter_context(_side(workers, batch, options, own)))
            sides[-1].wait_for_steps(options.warmup)
            sides[-1].signal(signal.SIGSTOP)
        before = [side.used() for side in sides]
        for number in range(options.rounds):
            for side in sides:
                side.run(options.slice_s)
            now = ", ".join(f"{side.speeds[-1]:,.0f}" for side in sides)
            print(f"{size}: {number + 1}/{options.rounds}: {now} frames/s", file=sys.stderr)
        found = []
        for (workers, batch), side, then in zip(ways, sides, before, strict=True):
            used = side.used().a_step(then)
            found.append(Found(workers, batch, side.speeds, side.steps, used, side.hosts()))
        return found


@contextmanager
def _side(workers: int, batch: int, options: argparse.Namespace, folder: Path) -> Iterator[Side]:
    settings = [
        f"prepare.features={options.features.absolute()}",
        f"training.batch_size={batch}",
        f"training.max_steps={ENDLESS}",
        "training.aligner.fixed_share=0",  # each step searches, as three of four do otherwise
        "training.threads=1",
        "training.log_every=1",
        "training.validate_every=0",
        "training.checkpoint_every=0",
        "training.sample_every=0",
        "tracking.enabled=false",
        *options.overrides,
    ]
    files = [options.config, *([TINY] if options.quick else [])]
    arguments = [f"--config={file.absolute()}" for file in files]
    arguments += [f"--set={text}" for text in settings]
    folder.mkdir(parents=True)
    with ray_nodes(workers, folder) as nodes:
        side = Side(nodes, arguments, folder)
        try:
            yield side
        finally:
            side.end()


def _markdown(rows: list[list[Found]], options: argparse.Namespace, facts: dict[str, Any]) -> str:
    lines = [
        "| workers | utterances a step | each | frames/s | of one worker's | 95 % interval | "
        "a worker's core time, ms a step | all beside the workers, ms a step | "
        "sent by a node, MB a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reached = []
    for one, *others in rows:
        lines.append(
            f"| 1 | {one.batch} | {one.batch} | {_median(one.speeds)} | 1.00 | {_used(one)}"
        )
        for two in others:
            ratios = [b / a for a, b in zip(one.speeds, two.speeds, strict=True)]
            ratio, (low, high) = statistics.median(ratios), interval(ratios)
            lines.append(
                f"| 2 | {two.batch} | {two.batch / 2:g} | {_median(two.speeds)} | {ratio:.2f} | "
                f"{low:.2f} - {high:.2f} {_used(two)}"
            )
        reached.append(ratio)  # of two with as many utterances each
    hosts = {" and ".join(f.hosts) for row in rows for f in row if f.workers == 2}
    steps = [f.steps for row in rows for f in row]
    lines += [
        "",
        f"Medians of {options.rounds} slices of {options.slice_s:g} s, ratios of neighbours; the "
        f"interval is of the median. Two workers with as many utterances each as one: goal at "
        f"least {GOAL} times the frames: {'met' if min(reached) >= GOAL else 'not met'}. The two "
        f"were on {', '.join(sorted(hosts))}; {min(steps)} to {max(steps)} steps counted of each.",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
    ]
    return "\n".join(lines)


def _used(found: Found) -> str:
    used = found.used
    sent = f"{used.sent_bytes / 1e6:.1f}" if found.workers > 1 else ""
    return f"| {1000 * used.worker_s:.0f} | {1000 * used.beside_s:.0f} | {sent} |"


def _median(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):,.0f}"


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of a median, by the bootstrap (Efron 1979)."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


if __name__ == "__main__":
    run_job(main)

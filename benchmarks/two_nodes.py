"""What a second node adds to a training: frames per second of two workers against one.

    python benchmarks/two_nodes.py                                 # on the sample corpus
    python benchmarks/two_nodes.py --features features/sample_am --batch-sizes 8 32
    python benchmarks/two_nodes.py --quick                         # does it run at all?

Two clusters of Ray on this machine (`benchmarks/machines.py`): one has two nodes of one core each
with a worker on either, the other has one such node with one worker. A node's processes are pinned
to its core, and each worker has one thread. Both do the same training, `jobs/train.py` with the
same batches in the same order, at once, but only one of them at a time: every few seconds
all processes of one are stopped (SIGSTOP) and those of the other go on. So step i of one is
compared with step i of the other, done seconds apart. Gradients go from node to node by Gloo
through a virtual cable, whose ends are work for the same two cores, as are both nodes' Rays, their
head and the command.
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
from benchmarks.machines import Nodes, job, ray_nodes
from dimts.command import run_job
from dimts.errors import UserError
from dimts.launch.console import EVENTS
from dimts.machine import machine_facts

GOAL = 1.6
SIDES = (1, 2)
START_S = 240
POLL_S = 0.1


class Steps(NamedTuple):
    """What a training has done so far, a value for each step.

    Attributes:
        frames_per_second: by the loop's own clock.
        losses: of the batch.
    """

    frames_per_second: list[float]
    losses: list[float]


class Side:
    """A training on a cluster of its own, which can be stopped and go on.

    Args:
        nodes: the cluster; it has a worker on each.
        arguments: of `jobs/train.py`.
        storage: folder of its run.
    """

    def __init__(self, nodes: Nodes, arguments: Sequence[str], storage: Path):
        self._nodes, self.workers = nodes, len(nodes.workers)
        name = f"workers{self.workers}"
        self._events, self._said = storage / name / EVENTS, storage / f"{name}.txt"
        own = [f"run.storage={storage}", f"run.name={name}", f"ray.workers={self.workers}"]
        command = job("train", *arguments, *(f"--set={text}" for text in own))
        storage.mkdir(parents=True, exist_ok=True)
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                nodes.head.command(*command), env=nodes.head.environment, stdout=said,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def steps(self) -> Steps:
        lines = self._events.read_bytes().splitlines(True) if self._events.exists() else []
        values = [json.loads(line).get("values", {}) for line in lines if line.endswith(b"\n")]
        values = [v for v in values if "train/total_loss" in v]
        return Steps(
            [v["train/frames_per_second"] for v in values], [v["train/total_loss"] for v in values]
        )

    def wait_for_steps(self, n: int) -> None:
        """Let it go on until it has done so many.

        Raises:
            UserError: it does not.
        """
        deadline = time.monotonic() + START_S
        while self.done() < n:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._said.read_text(encoding="utf-8").strip().splitlines() or ["nothing"]
                raise UserError(f"a training of {self.workers} does not get going: {said[-1]}")
            time.sleep(POLL_S)

    def done(self) -> int:
        return len(self.steps().losses)

    def sent_bytes(self) -> int:
        """Into the network so far, by one of the nodes."""
        return self._nodes.workers[0].sent_bytes()

    def hosts(self) -> list[str]:
        """Names of the machines that have a worker."""
        return [m.name for m in self._nodes.machines if m.started()["RayTrainWorker"]]

    def run(self, seconds: float) -> None:
        """Let all of it go on for a while."""
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)

    def signal(self, number: signal.Signals) -> None:
        """To all processes of its cluster, and to what waits for the command."""
        for machine in self._nodes.machines:
            machine.signal(number)
        self._process.send_signal(number)

    def end(self) -> None:
        """The command ends with its cluster."""
        self.signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()


class Found(NamedTuple):
    """What came of one size of batch.

    Attributes:
        speeds: of each side, frames per second of each counted step.
        sent_mb: by a node of two, megabytes a step.
        workers_on: of each side, the machines that had a worker.
    """

    speeds: list[list[float]]
    sent_mb: float
    workers_on: list[list[str]]

    def ratios(self) -> list[float]:
        one, two = self.speeds
        return [b / a for a, b in zip(one, two, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    machine = machine_facts(("torch", "ray"))
    found: dict[int, Found] = {}
    with tempfile.TemporaryDirectory(prefix="dimts-nodes-") as folder:
        if options.features is None:
            environment = {"RAY_AUTH_MODE": "disabled", **os.environ}
            options.features = sample_features(Path(folder), options.quick, environment)
        for size in options.batch_sizes:
            found[size] = _measure(size, options, Path(folder) / f"batch{size}")
            print(f"batch {size}: {statistics.median(found[size].ratios()):.2f}", file=sys.stderr)
    print(_markdown(found, options, machine))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="voice (sample_am.yaml)")
    parser.add_argument("--features", type=Path, help="prepared (default: the sample corpus)")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16, 32],
        help="utterances a step, over all workers (8 16 32)",
    )  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--steps", type=int, default=100, help="compared steps (100)")
    parser.add_argument("--warmup", type=int, default=20, help="steps before those (20)")
    parser.add_argument("--slice-s", type=float, default=6.0, help="seconds of a slice (6)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, a few steps")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batch_sizes, options.steps, options.warmup, options.slice_s = [8], 8, 2, 1.0
    if min(*options.batch_sizes, options.steps, options.warmup) < 1:
        parser.error("--batch-sizes, --steps and --warmup must be at least 1")
    return options


def _measure(size: int, options: argparse.Namespace, folder: Path) -> Found:
    total = options.warmup + options.steps
    settings = [
        f"prepare.features={options.features.absolute()}",
        f"training.batch_size={size}",
        f"training.max_steps={total}",
        "training.threads=1",
        "training.log_every=1",
        "training.validate_every=0",
        "training.checkpoint_every=0",
        "training.sample_every=0",
        "tracking.enabled=false",
        "ray.cpus_per_worker=1",
        *options.overrides,
    ]
    files = [options.config, *([TINY] if options.quick else [])]
    arguments = [f"--config={file.absolute()}" for file in files]
    arguments += [f"--set={text}" for text in settings]
    with ExitStack() as stack:
        sides = []
        for workers in SIDES:
            side = stack.enter_context(_side(workers, arguments, folder))
            side.wait_for_steps(2)
            side.signal(signal.SIGSTOP)
            sides.append(side)
        before, sent = sides[-1].done(), sides[-1].sent_bytes()
        while any(side.done() < total for side in sides):
            for side in sides:
                if side.done() < total:
                    side.run(options.slice_s)
        sent_mb = (sides[-1].sent_bytes() - sent) / (total - before) / 1e6
        speeds = [side.steps().frames_per_second[options.warmup : total] for side in sides]
        return Found(speeds, sent_mb, [side.hosts() for side in sides])


@contextmanager
def _side(workers: int, arguments: Sequence[str], folder: Path) -> Iterator[Side]:
    own = folder / str(workers)
    own.mkdir(parents=True)
    with ray_nodes(workers, own) as nodes:
        side = Side(nodes, arguments, folder / "runs")
        try:
            yield side
        finally:
            side.end()


def _markdown(found: dict[int, Found], options: argparse.Namespace, facts: dict[str, Any]) -> str:
    lines = [
        "| batch | 1 worker, frames/s | 2 workers on 2 nodes, frames/s | times as many | "
        "95 % interval | sent by a node, MB a step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for size, of_size in found.items():
        ratios = of_size.ratios()
        low, high = interval(ratios)
        one, two = map(statistics.median, of_size.speeds)
        cells = [str(size), f"{one:,.0f}", f"{two:,.0f}", f"{statistics.median(ratios):.2f}"]
        cells += [f"{low:.2f} - {high:.2f}", f"{of_size.sent_mb:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    best = max(statistics.median(of_size.ratios()) for of_size in found.values())
    where = {" and ".join(hosts) for of_size in found.values() for hosts in of_size.workers_on[1:]}
    lines += [
        "",
        f"Medians over {options.steps} steps of the ratio of the same step; the interval is of "
        f"the median. Goal: at least {GOAL} times: {'met' if best >= GOAL else 'not met'}. "
        f"The two workers were on {', '.join(sorted(where))}.",
        "",
        f"- slices of {options.slice_s:g} s, {options.warmup} steps before those that count",
        *(f"- {key}: {value}" for key, value in facts.items()),
    ]
    return "\n".join(lines)


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of a median, by the bootstrap (Efron 1979)."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


if __name__ == "__main__":
    run_job(main)

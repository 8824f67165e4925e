"""What a step costs while the tracking server is there, refuses, is silent, or is just back.

    python benchmarks/tracking_away.py --config jobs/configs/sample_am.yaml \
        --features features/sample_am
    python benchmarks/tracking_away.py --config VOICE --features FEATURES --quick   # does it run?

One training in this process records every step to MLflow's server over SQLite on loopback. Every
--steps steps the server changes: there, killed (connections are refused), just back (what waited
follows), there, stopped by SIGSTOP (connections are taken and never answered), just back, and so
on for --rounds rounds, with a last slice in which it is there. While it changes the training waits,
and before a slice in which it is there also for what is on its way; neither is counted, nor are
the first two steps of a slice. A step's time is the wall clock's, from one record to the next, so
recording is in it, and is divided by its frames. Of each slice the median counts, and is compared
with those of the slices before and after it in which the server was there, so a machine that
becomes slower or faster meanwhile does so to both. Best of whole epochs: --steps a multiple of
their batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.launch.machine import resolve_on_machine
from dimts.launch.run_logger import RunLogger
from dimts.launch.settings import Launch
from dimts.launch.start import keep_settings
from dimts.launch.training_run import run_training
from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import Cursor
from dimts.tracking.ui import start_ui, stop

CONFIG = Path(__file__).resolve().parents[1] / "jobs/configs/sample_am.yaml"
ROUND = ("there", "refusing", "back", "there", "silent", "back")
NAMES = {
    "there": "there",
    "refusing": "killed: connections are refused",
    "silent": "stopped: connections are taken and never answered",
    "back": "just back: what waited follows",
}
GOAL = 0.05
SETTLING = 2
POLL_S = 0.1
PATIENCE_S = 120


@dataclass
class Slice:
    """Some steps under one condition.

    Attributes:
        condition: a key of `NAMES`.
        seconds: of each counted step.
        frames: of its batch.
        n_waiting: events that waited at its end.
    """

    condition: str
    seconds: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    n_waiting: int = 0

    @property
    def median(self) -> float:
        """Seconds a frame."""
        return statistics.median(s / f for s, f in zip(self.seconds, self.frames, strict=True))


class Server:
    """MLflow's server, put into a condition."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        uri = f"sqlite:///{folder}/mlflow.db"
        MlflowClient(uri).search_experiments()  # Makes the tables.
        self._config = TrackingConfig(uri=uri, artifacts=str(folder / "artifacts"))
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"http://127.0.0.1:{self._port}"

    def become(self, condition: str) -> None:
        if condition == "refusing":
            self.end(signal.SIGKILL)
        elif condition == "silent":
            self._signal(signal.SIGSTOP)
        elif self._process is None:
            self._process = start_ui(self._config, self._port)
        else:
            self._signal(signal.SIGCONT)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        if number == signal.SIGKILL:
            self._signal(number)
        stop(self._process)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


class Clock(RunLogger):
    """The run's recorder, which times its steps and changes the server between slices."""

    def __init__(self, launch: Launch, server: Server, conditions: Sequence[str], n_steps: int):
        super().__init__(launch)
        self._server = server
        self._conditions = list(conditions)
        self._n_steps = n_steps
        self._waiting_to_count = 0
        self._last: tuple[float, float] | None = None
        self.slices: list[Slice] = []

    def warm_up(self, n_steps: int) -> None:
        self._waiting_to_count = n_steps

    def log(self, values: dict[str, float], step: int) -> None:
        now, frames = time.perf_counter(), values.get("train/frames")
        super().log(values, step)
        if frames is None:
            return
        if self._waiting_to_count:
            self._waiting_to_count -= 1
        elif self._last is not None:
            before, frames_before = self._last
            self.slices[-1].seconds.append(now - before)
            self.slices[-1].frames.append(frames - frames_before)
        self._last = now, frames
        if not self._waiting_to_count and self._slice_is_over():
            self._next_slice()

    def _slice_is_over(self) -> bool:
        return not self.slices or len(self.slices[-1].seconds) == self._n_steps

    def _next_slice(self) -> None:
        if self.slices:
            self.slices[-1].n_waiting = self._n_waiting()
        if len(self.slices) == len(self._conditions):
            return
        condition = self._conditions[len(self.slices)]
        self._server.become(condition)
        if condition == "there":
            self._let_all_arrive()
        self.slices.append(Slice(condition))
        self._waiting_to_count = SETTLING

    def _n_waiting(self) -> int:
        return Cursor(self.launch.run_dir).n_waiting()

    def _let_all_arrive(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self._n_waiting():
            if time.monotonic() > until:
                raise UserError("the records do not arrive; try jobs/train.py with the server")
            time.sleep(POLL_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train once, and print what a step takes under each condition."""
    options = _options(arguments)
    machine = machine_facts(("torch", "mlflow"))
    conditions = [*ROUND * options.rounds, "there"]
    with tempfile.TemporaryDirectory(prefix="dimts-away-") as folder:
        server = Server(Path(folder))
        try:
            server.become("there")
            launch = _launch(options, Path(folder), server.address, len(conditions))
            slices = _train(launch, server, conditions, options)
        finally:
            server.end()
    print(_table(slices, options), *(f"- {k}: {v}" for k, v in machine.items()), sep="\n")
    if options.json:
        raw = [{**vars(one), "median": one.median} for one in slices]
        text = json.dumps({"slices": raw, **machine}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="voice (sample_am.yaml)")
    parser.add_argument("--features", type=Path, required=True, help="prepared features")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of a slice (40)")
    parser.add_argument("--rounds", type=int, default=6, help="of six slices each (6)")
    parser.add_argument("--warmup", type=int, default=40, help="steps before the first slice (40)")
    parser.add_argument("--send-every-s", type=float, default=1.5, help="tracking.send_every_s")
    parser.add_argument("--quick", action="store_true", help="a few steps, one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.rounds, options.warmup, options.send_every_s = 3, 1, 2, 0.05
    if min(options.steps, options.rounds, options.warmup) < 1:
        parser.error("--steps, --rounds and --warmup must be at least 1")
    return options


def _launch(options: argparse.Namespace, folder: Path, address: str, n_slices: int) -> Launch:
    n_steps = options.warmup + n_slices * (options.steps + SETTLING)
    overrides = [
        f"prepare.features={options.features.absolute()}",
        f"run.storage={folder / 'runs'}",
        "run.name=away",
        f"training.max_steps={n_steps}",
        "training.threads=1",
        "training.log_every=1",
        "training.validate_every=0",
        "training.patience=0",
        "training.sample_every=0",
        "training.checkpoint_every=0",
        "training.aligner.fixed_share=0",  # A step would become slower at the change.
        "tracking.enabled=true",
        f"tracking.uri={address}",
        f"tracking.send_every_s={options.send_every_s}",
    ]
    return load_config(VoiceConfig, [options.config], overrides).launch()


def _train(
    launch: Launch, server: Server, conditions: Sequence[str], options: argparse.Namespace
) -> list[Slice]:
    launch.run_dir.mkdir(parents=True)
    keep_settings(launch.run_dir, launch.settings.config_yaml)
    launch, _ = resolve_on_machine(launch, torch.device("cpu"))
    clock = Clock(launch, server, conditions, options.steps)
    clock.warm_up(options.warmup)
    clock.start()
    run_training(launch.settings, clock, torch.device("cpu"))
    clock.end("FINISHED")
    return clock.slices


def _table(slices: Sequence[Slice], options: argparse.Namespace) -> str:
    rows = [
        "| the server is | a step, ms | beside slices with it there | 95 % interval | "
        "records that waited at the end of a slice |",
        "| --- | --- | --- | --- | --- |",
    ]
    verdicts, frames = {}, statistics.mean(n for one in slices for n in one.frames)
    for condition, name in NAMES.items():
        of_condition = [one for one in slices if one.condition == condition]
        shares = _shares(slices, condition)
        cells = ["", ""]
        if shares:
            low, high = _interval(shares)
            verdicts[condition] = statistics.median(shares)
            cells = [f"{verdicts[condition]:+.2%}", f"{low:+.2%} ... {high:+.2%}"]
        step_ms = 1e3 * frames * statistics.median(one.median for one in of_condition)
        waiting = max(one.n_waiting for one in of_condition)
        rows.append(f"| {name} | {step_ms:.1f} | {' | '.join(cells)} | {waiting} |")
    met = max(verdicts["refusing"], verdicts["silent"]) <= GOAL
    rows += [
        "",
        f"A step is one of {frames:.0f} frames, the mean. Medians of {options.rounds} rounds with "
        f"slices of {options.steps} steps, in one run of one torch thread; intervals by the "
        "bootstrap. The first row compares slices with the server there with each other. Goal: "
        f"away it costs at most {GOAL:.0%} of a step: "
        f"{'met' if met else 'not met'}.",
        "",
    ]
    return "\n".join(rows)


def _shares(slices: Sequence[Slice], condition: str) -> list[float]:
    """Share that each slice adds to the mean of its nearest ones with the server there."""
    shares = []
    for number, one in enumerate(slices):
        before = [s.median for s in slices[:number] if s.condition == "there"][-1:]
        after = [s.median for s in slices[number + 1 :] if s.condition == "there"][:1]
        if one.condition == condition and before and after:
            shares.append(one.median / statistics.mean(before + after) - 1)
    return shares


def _interval(values: list[float]) -> tuple[float, float]:
    """Of the median, by the bootstrap (Efron 1979)."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


if __name__ == "__main__":
    run_job(main)

"""What a sweep is worth, and what it costs: TPE and early stopping beside random search.

    python benchmarks/tune.py                     # an hour on two cores
    python benchmarks/tune.py --quick             # does it run at all?

Every arm is a real sweep of `benchmarks/tune_space.yaml` through Ray Tune. Random search without
early stopping runs `--trials` trials; what it has found at its end is what the others are
measured by: the frames and the seconds after which they had found as much, and what they had
found after as many frames. Sweeps that have ended are kept in --out and not repeated.
The cost of a trial is compared with the same training in one process, without Ray or Optuna.
Features must have been prepared: python jobs/prepare.py --config jobs/configs/sample_am.yaml
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.training.callbacks import Callbacks

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "benchmarks" / "tune_space.yaml"
RANDOM = "random"
GENTLE = "sweep.early_stopping.factor=2"
AGGRESSIVE = "sweep.early_stopping.factor=4"
ARMS: dict[str, tuple[str, tuple[str, ...], float]] = {
    RANDOM: ("random", ("sweep.sampler=random", "sweep.early_stopping=null"), 1),
    "random_asha": ("random + ASHA, one in two goes on", ("sweep.sampler=random", GENTLE), 1.5),
    "tpe": ("TPE", ("sweep.early_stopping=null",), 1),
    "tpe_asha_complete": (
        "TPE + ASHA, one in two goes on, stopped trials as COMPLETE",
        (GENTLE,),
        1.5,
    ),
    "tpe_asha": ("TPE + ASHA, one in two goes on, PRUNED", (GENTLE,), 1.5),
    "tpe_asha_4": ("TPE + ASHA, one in four goes on, PRUNED (dimts)", (AGGRESSIVE,), 3),
}
"""Name -> title, settings, and how many times as many trials as random search has."""


class Trial(NamedTuple):
    """One trial of a sweep that has ended.

    Attributes:
        loss: lowest validation loss; None if it did not run to its end.
        frames: mel frames that it was trained on.
        began, ended: seconds since the sweep's first trial began.
    """

    loss: float | None
    frames: int
    began: float
    ended: float


class Sweep(NamedTuple):
    """One sweep of one seed.

    Attributes:
        trials: in the order in which they ended.
        cpu_s: seconds of processor time between the first trial's begin and the last one's end,
            of all processes of the machine.
        parallel: trials at a time.
    """

    trials: list[Trial]
    cpu_s: float
    parallel: int


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.one:
        arm, seed, file = options.one.split(":", 2)
        run_one(arm, int(seed), Path(file), options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    sweeps: dict[tuple[str, int], Sweep] = {}
    for seed in range(options.seeds):
        for arm in options.arms:
            sweeps[arm, seed] = _sweep(arm, seed, options)
            print(f"{arm} {seed}: {best_loss(sweeps[arm, seed]):.4f}", file=sys.stderr, flush=True)
    print(search_table(sweeps, options.arms))
    print(cost_lines(sweeps, bare_seconds(options)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24, help="of random search (24)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--out", type=Path, default=Path("runs/tune_benchmark"))
    parser.add_argument("--quick", action="store_true", help="two arms, two trials of few steps")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.arms, options.seeds, options.trials = [RANDOM, "tpe_asha"], 1, 2
        options.overrides += ["sweep.utterances=64", "sweep.validations=2"]
    if RANDOM not in options.arms:
        raise UserError(f"--arms: {RANDOM} is what the others are measured by")
    return options


def _settings(arm: str, seed: int, options: argparse.Namespace) -> list[str]:
    return [
        *ARMS[arm][1],
        f"sweep.trials={round(options.trials * ARMS[arm][2])}",
        f"sweep.seed={seed}",
        *options.overrides,
    ]


def _sweep(arm: str, seed: int, options: argparse.Namespace) -> Sweep:
    """Run a sweep in a process of its own, or read what it found before."""
    key = fingerprint(_settings(arm, seed, options), SPACE.read_text(encoding="utf-8"))
    file = options.out / f"{arm}-{seed}-{key}.json"
    if not file.exists():
        command = [sys.executable, __file__, "--one", f"{arm}:{seed}:{file.absolute()}"]
        command += ["--trials", str(options.trials)]
        command += [f"--set={setting}" for setting in options.overrides]
        paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        environment = {"RAY_AUTH_MODE": "disabled", **os.environ, "PYTHONPATH": paths}
        subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    values = json.loads(file.read_text(encoding="utf-8"))
    return Sweep([Trial(*trial) for trial in values["trials"]], values["cpu_s"], values["parallel"])


def run_one(arm: str, seed: int, file: Path, options: argparse.Namespace) -> None:
    """Run one sweep and write what it found."""
    from optuna.trial import TrialState

    from dimts.commands.sweep_config import load_sweep
    from dimts.tuning import study as study_module
    from dimts.tuning.study import SweepStudy
    from dimts.tuning.sweep import run_sweep

    if arm == "tpe_asha_complete":  # as Ray's own OptunaSearch has it
        study_module.STATES["stopped early"] = TrialState.COMPLETE
    with tempfile.TemporaryDirectory(prefix="dimts-tune-benchmark-") as folder:
        overrides = [*_settings(arm, seed, options), f"run.storage={folder}"]
        plan = load_sweep([SPACE], overrides).plan()
        clock = CpuClock()
        if not run_sweep(plan).is_complete:
            raise UserError(f"{plan.title}: was stopped, so there is nothing to compare")
        spans = [
            (t.datetime_complete.timestamp(), t.datetime_start.timestamp(), t)
            for t in SweepStudy(plan.sweep, plan.folder).trials
            if t.datetime_start and t.datetime_complete
        ]
        spans.sort(key=lambda span: span[:2])
        zero = min(start for _, start, _ in spans)
        trials = [
            Trial(
                t.values[0] if t.user_attrs["outcome"] == "finished" else None,
                t.user_attrs["frames"],
                start - zero,
                end - zero,
            )
            for end, start, t in spans
        ]
        cpu_s = clock.between(zero, spans[-1][0])
    result = {"trials": trials, "cpu_s": cpu_s, "parallel": plan.sweep.parallel or n_cores()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(file)


class CpuClock:
    """Processor time of the whole machine, read twice a second."""

    def __init__(self) -> None:
        import threading

        self.readings: list[tuple[float, float]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        ticks = os.sysconf("SC_CLK_TCK")
        while True:
            user, nice, system, _, _, irq, soft, *_ = map(
                int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
            )
            self.readings.append((time.time(), (user + nice + system + irq + soft) / ticks))
            time.sleep(0.5)

    def between(self, start: float, end: float) -> float:
        """Seconds of processor time from one time of day to another."""
        times, seconds = zip(*self.readings, strict=True)
        return float(np.interp(end, times, seconds) - np.interp(start, times, seconds))


def bare_seconds(options: argparse.Namespace) -> float:
    """The same trainings in this process, with their validations and checkpoints: the mean of all
    that random search ran with the first seed, after one that warms up."""
    import torch

    from dimts.commands.sweep_config import load_sweep
    from dimts.launch.machine import resolve_on_machine
    from dimts.launch.training_run import run_training
    from dimts.tuning.study import SweepStudy

    seconds = []
    with tempfile.TemporaryDirectory(prefix="dimts-tune-bare-") as folder:
        overrides = [*_settings(RANDOM, 0, options), f"run.storage={folder}"]
        plan = load_sweep([SPACE], overrides).plan()
        plan.folder.mkdir(parents=True)
        study = SweepStudy(plan.sweep, plan.folder)
        assignments = list(iter(study.next, None))
        for assignment in (assignments[0], *assignments):
            launch = plan.launch(assignment.number, assignment.values)
            shutil.rmtree(launch.run_dir, ignore_errors=True)
            launch.run_dir.mkdir(parents=True)
            launch, _ = resolve_on_machine(launch, torch.device("cpu"))
            start = time.monotonic()
            run_training(launch.settings, Callbacks())
            seconds.append(time.monotonic() - start)
    return mean(seconds[1:])


def best_loss(sweep: Sweep, frames: float = float("inf")) -> float:
    """The lowest loss found with so many frames of training."""
    best, used = float("inf"), 0
    for trial in sweep.trials:
        used += trial.frames
        if used <= frames and trial.loss is not None:
            best = min(best, trial.loss)
    return best


def reached(sweep: Sweep, loss: float) -> tuple[float, float]:
    """Frames and seconds after which a loss was found; infinite if it was not."""
    used = 0
    for trial in sweep.trials:
        used += trial.frames
        if trial.loss is not None and trial.loss <= loss:
            return used, trial.ended
    return float("inf"), float("inf")


def search_table(sweeps: dict[tuple[str, int], Sweep], arms: Sequence[str]) -> str:
    """What each arm found, seed by seed compared with random search."""
    lines = [
        "| | trials | best loss at random's frames | frames to random's best | time to it |",
        "| --- | --- | --- | --- | --- |",
    ]
    seeds = sorted({seed for _, seed in sweeps})
    for arm in arms:
        best, frames, seconds, trials = [], [], [], []
        for seed in seeds:
            base, sweep = sweeps[RANDOM, seed], sweeps[arm, seed]
            budget = sum(t.frames for t in base.trials)
            goal = reached(base, best_loss(base))
            best.append(best_loss(sweep, budget))
            used, took = reached(sweep, best_loss(base))
            frames.append(used / budget)
            seconds.append(took / base.trials[-1].ended)
            trials.append(len(sweep.trials))
            assert goal[0] <= budget
        cells = [ARMS[arm][0], f"{median(trials):.0f}", _spread(best, 3),
                 _spread(frames, 2), _spread(seconds, 2)]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    facts = ", ".join(map(str, machine_facts(["torch", "ray", "optuna"]).values()))
    lines += [
        "",
        f"Medians of {len(seeds)} seeds, in brackets the least and the greatest. Frames and "
        'time are shares of all that random search used, to find its best as well; "never" is '
        "within the trials that were run.",
        facts,
    ]
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    def word(value: float) -> str:
        return f"{value:.{digits}f}" if np.isfinite(value) else "never"

    return f"{word(median(values))} ({word(min(values))}-{word(max(values))})"


def cost_lines(sweeps: dict[tuple[str, int], Sweep], bare: float) -> str:
    """What a trial costs beside the bare training, and how busy the cores are."""
    busy, taken = [], []
    for sweep in sweeps.values():
        wall = sweep.trials[-1].ended
        busy.append(sweep.cpu_s / wall / n_cores())
        taken.append(sum(t.ended - t.began for t in sweep.trials) / wall / sweep.parallel)
    first = sweeps[RANDOM, 0]
    cost = first.trials[-1].ended * first.parallel / len(first.trials)
    return "\n".join([
        "",
        f"- a trial of random search: {cost:.2f} s of a core's time, the same training bare: "
        f"{bare:.2f} s (means of the {len(first.trials)} trials of the first seed)",
        f"- cores in use, first trial's begin to last one's end: {_spread(busy, 2)}; "
        f"of that time trials were running: {_spread(taken, 2)}",
    ])  # fmt: skip


if __name__ == "__main__":
    run_job(main)

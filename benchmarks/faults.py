"""What a training loses when a part of it fails, and how long it takes to go on.

    python benchmarks/faults.py                     # each fault three times, about 20 minutes
    python benchmarks/faults.py --faults worker driver --times 1
    python benchmarks/faults.py --quick             # does it run at all?

Each trial is a run of its own, `jobs/train.py` with a tiny model, which meets one fault at a
random step and then trains to its end. It has survived if its weights are, bit for bit, those of
a run that met none. Lost are the steps that were computed again. The time is from the fault to the
next step that was trained; where a person has to give the command again, that is done at once.
Features must have been prepared: python jobs/prepare.py --config jobs/configs/sample_am.yaml
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.machine_facts import machine_facts
from dimts.bundles.bundle import resolve_bundle
from dimts.cli import run_job
from dimts.core.errors import UserError

# Before this folder, whose faults.py has the name of the package in tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults.grounds import cluster, small_disk
from faults.injection import MARK, ROOT, Training
from faults.kinds import KINDS, Kind, fill_disk, interruption

CONFIGS = ("jobs/configs/sample_am.yaml", "jobs/configs/models/tiny.yaml")
EVERY = 20
STEPS = 120


class Trial(NamedTuple):
    """What came of one fault.

    Attributes:
        survived: the weights at the end are those of an undisturbed run.
        lost: steps that were computed again.
        seconds: from the fault to the next step.
        saved_after_s: from SIGTERM to the checkpoint, where that was the fault.
    """

    survived: bool
    lost: int
    seconds: float
    saved_after_s: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    folder = Path(tempfile.mkdtemp(prefix="dimts-faults-"))  # stays, to be looked at, if one fails
    found = {name: _try(name, options, folder) for name in options.faults}
    rows = [_row(KINDS[name], trials, options.times) for name, trials in found.items()]
    print("\n".join(["| fault | tried | survived | steps lost | seconds to go on |",
                     "| --- | --- | --- | --- | --- |", *rows]))  # fmt: skip
    facts = ", ".join(map(str, machine_facts(["torch", "ray"]).values()))
    print(
        f"\nA tiny model, a checkpoint every {EVERY} steps, of {options.steps}. Medians, in "
        f"brackets the least and the greatest. {facts}"
    )
    if any(len(trials) < options.times for trials in found.values()):
        raise UserError(f"not all trials came to an end; what they left is in {folder}")
    shutil.rmtree(folder)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--times", type=int, default=3, help="trials of each fault (3)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a run ({STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the steps that faults come at")
    parser.add_argument("--config", nargs="+", type=Path, default=[ROOT / c for c in CONFIGS])
    parser.add_argument("--quick", action="store_true", help="two faults, once")
    options = parser.parse_args(arguments)
    if options.quick:
        options.faults, options.times = ["bare", "worker"], 1
    return options


def _try(name: str, options: argparse.Namespace, folder: Path) -> list[Trial]:
    """All trials of a fault that came to an end."""
    trials = []
    for number in range(options.times):
        try:
            trials.append(run_trial(KINDS[name], options, folder / f"{name}{number}", number))
        except UserError as error:  # the other faults are tried all the same
            print(f"{name} {number}: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{name} {number}: {trials[-1]}", file=sys.stderr, flush=True)
    return trials


def _row(kind: Kind, trials: Sequence[Trial], times: int) -> str:
    if not trials:
        return f"| {kind.title} | {times} | 0 | | |"
    survived = sum(trial.survived for trial in trials)
    lost = _spread([trial.lost for trial in trials], 0)
    took = _spread([trial.seconds for trial in trials], 1)
    if saved := [trial.saved_after_s for trial in trials if trial.saved_after_s is not None]:
        took += f", checkpoint after {_spread(saved, 1)}"
    return f"| {kind.title} | {times} | {survived} | {lost} | {took} |"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def run_trial(kind: Kind, options: argparse.Namespace, folder: Path, number: int) -> Trial:
    """A run that meets one fault, and what it comes to."""
    n_steps = options.steps * kind.longer
    step = random.Random(f"{options.seed} {kind.title} {number}").randrange(
        EVERY + 3, options.steps - 2 * EVERY
    )
    undisturbed = folder.parent / f"undisturbed{kind.workers}_{n_steps}"
    if not undisturbed.exists():
        whole = _training(kind, options, n_steps, undisturbed, {})
        whole.start()
        if whole.wait_for_end() != 0:
            raise UserError(f"without a fault the training fails; see {whole.console}")
    with ExitStack() as stack:
        if kind.inject is fill_disk:
            stack.enter_context(small_disk(folder))
        environment = {MARK: uuid.uuid4().hex}
        nodes = stack.enter_context(cluster(kind.nodes, environment)) if kind.nodes else None
        training = _training(kind, options, n_steps, folder, environment)
        training.start()
        stack.callback(training.stop)
        training.wait_for_step(step)
        begin = time.time()
        kind.inject(training, nodes)
        if training.wait_for_end() != 0:
            raise UserError(f"after {kind.title} the training fails; see {training.console}")
        same = training.weights() == _weights(undisturbed)
        lost, seconds = interruption(training, begin)
        return Trial(same, lost, seconds, training.saved_after_s)


def _weights(folder: Path) -> bytes:
    return (resolve_bundle(folder / "run" / "checkpoint_latest") / "model.safetensors").read_bytes()


def _training(
    kind: Kind,
    options: argparse.Namespace,
    n_steps: int,
    folder: Path,
    environment: dict[str, str],
) -> Training:
    overrides = [
        f"run.storage={folder}", "run.name=run", "tracking.enabled=false",
        f"training.max_steps={n_steps}", f"training.checkpoint_every={EVERY}",
        "training.validate_every=0", "training.sample_every=0", "training.log_every=1",
        "training.threads=1", "training.ema_decay=0.99", f"ray.workers={kind.workers}",
    ]  # fmt: skip
    if kind.workers:
        overrides.append("ray.cpus_per_worker=1")
    return Training(options.config, overrides, folder / "run", environment)


if __name__ == "__main__":
    run_job(main)

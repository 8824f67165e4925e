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
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.grounds import cluster, lose, raylet_of, small_disk
from benchmarks.injection import MARK, POLL_S, ROOT, Training, kill
from dimts.command import run_job
from dimts.errors import UserError
from dimts.machine import machine_facts
from dimts.training.checkpoint import TRAINER_STATE

CONFIGS = ("jobs/configs/sample_am.yaml", "jobs/configs/models/tiny.yaml")
EVERY = 20
STEPS = 120
NOTICE_S = 20
LEFT_BYTES = 400_000
REASON = "DRAIN_NODE_REASON_PREEMPTION"


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


class Kind(NamedTuple):
    """A fault.

    Attributes:
        title: of its row in the table.
        workers: of Ray; 0 for none.
        inject: what is done to a training that has reached a step.
        nodes: machines of the cluster beside its head, each with one core; 0 for a local Ray.
        longer: as many times as many steps, where it takes long until the fault has an effect.
    """

    title: str
    workers: int
    inject: Callable[[Training, Any], None]
    nodes: int = 0
    longer: int = 1


def kill_worker(training: Training, _: Any) -> None:
    kill(training.worker(0))


def kill_second_worker(training: Training, _: Any) -> None:
    kill(training.worker(1))


def kill_raylet(training: Training, nodes: Any) -> None:
    """Its workers may go on for seconds, until they or the head notice."""
    first = training.rank_0()
    lose(nodes, training.raylet())
    training.wait_for(lambda: training.rank_0() != first, "the run on another node")


def kill_only_raylet(training: Training, _: Any) -> None:
    """Nothing can go on: the command ends, and is given again."""
    kill(training.raylet())
    training.wait_for_end()
    training.start()


def kill_driver(training: Training, _: Any) -> None:
    training.kill_driver()
    training.start()


def terminate(training: Training, _: Any) -> None:
    """As a scheduler does it that wants the machine."""
    code = training.terminate()
    if code != 0:
        raise UserError(f"after SIGTERM it ended with {code}; see {training.console}")
    training.start()


def halve_checkpoint(training: Training, _: Any) -> None:
    """The machine loses power and the last file is half there."""
    writer = training.rank_0()
    training.kill_driver()
    with suppress(ProcessLookupError):  # it would write further ones
        kill(writer)
    checkpoint = training.checkpoint()
    assert checkpoint is not None
    file = checkpoint / TRAINER_STATE
    os.truncate(file, file.stat().st_size // 2)
    training.start()


def fill_disk(training: Training, _: Any) -> None:
    """No room for the next checkpoint, though for some lines of the record."""
    disk = training.run_dir.parent
    ballast, told = disk / "ballast", len(training.texts("no checkpoint of step"))
    try:
        with ballast.open("wb") as file:
            _fill(file.fileno(), disk)
        training.wait_for(
            lambda: len(training.texts("no checkpoint of step")) > told, "a checkpoint without room"
        )
    finally:
        ballast.unlink()


def _fill(descriptor: int, disk: Path) -> None:
    """Make a file so large that `LEFT_BYTES` are left, though others write as well."""
    while True:
        free = os.statvfs(disk)
        size = max(1, free.f_bavail * free.f_frsize - LEFT_BYTES)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:  # meanwhile there was less
            time.sleep(POLL_S)
        else:
            return


def give_notice(training: Training, nodes: Any) -> None:
    """A cloud wants its machine back: it says so, and takes it after a while."""
    raylet = training.raylet()
    node = next(n for n in nodes.list_all_nodes() if raylet_of(n) == raylet)
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", nodes.address, "--node-id", node.node_id, "--reason", REASON]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", str(NOTICE_S)]
    claim = training.rank_0()
    subprocess.run(command, check=True, capture_output=True)
    training.wait_for(lambda: training.rank_0() != claim, "the run on another machine")
    lose(nodes, raylet)


KINDS = {
    "bare": Kind("kill -9 of a run without Ray, started again", 0, kill_driver),
    "worker": Kind("kill -9 of a worker", 1, kill_worker),
    "second_worker": Kind("kill -9 of one worker of two", 2, kill_second_worker),
    "raylet": Kind(
        "kill -9 of a node's raylet, another node is free", 1, kill_raylet, nodes=2, longer=2
    ),
    "one_of_two_nodes": Kind(
        "the same, two workers on two nodes, a third is free", 2, kill_raylet, nodes=3
    ),
    "only_raylet": Kind("kill -9 of the only raylet, started again", 1, kill_only_raylet),
    "driver": Kind("kill -9 of the command, started again", 1, kill_driver),
    "sigterm": Kind("SIGTERM to the command, started again", 1, terminate),
    "notice": Kind(
        f"notice of {NOTICE_S} s, then the node is gone", 1, give_notice, nodes=2, longer=8
    ),
    "full_disk": Kind("no room for a checkpoint, then some", 1, fill_disk),
    "half_checkpoint": Kind("kill -9, latest checkpoint cut in half", 1, halve_checkpoint),
}


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
    return (folder / "run" / "checkpoint_latest" / "model.safetensors").read_bytes()


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


def interruption(training: Training, begin: float) -> tuple[int, float]:
    """Steps that were computed again after a fault, and seconds until the next step.

    Where the run went on for a while after the fault, the seconds are from its last step before
    it was interrupted.
    """
    events = training.events()
    starts = [n for n, event in enumerate(events) if "start" in event]
    if len(starts) == 1:  # it went on as it was
        later = [e["time"] for e in events if "values" in e and e["time"] > begin]
        return 0, later[0] - begin
    before = [e for e in events[: starts[1]] if "train/total_loss" in e.get("values", {})]
    after = [e for e in events[starts[1] :] if "train/total_loss" in e.get("values", {})]
    if not after:  # what was left alone came to the end before it was missed
        return 0, events[-1]["time"] - begin
    lost = before[-1]["step"] - (after[0]["step"] - 1)
    return lost, after[0]["time"] - max(begin, before[-1]["time"])


if __name__ == "__main__":
    run_job(main)

"""An hour of training in which something fails every two minutes, beside one that nobody disturbs.

    python benchmarks/soak.py                          # an hour, and a few minutes more
    python benchmarks/soak.py --minutes 6 --every 45   # a look

Both trainings are `jobs/train.py` with the same settings and seed: one without Ray, one as a worker
on a Ray cluster of two nodes beside a head (on this machine), with a real MLflow server, on a disk
of its own. Each fault is drawn at random from those of `tests/faults/kinds.py` and of the tracking
server. At the end the disturbed training is asked to stop; its latest regular checkpoint has to be,
bit for bit, the other's of the same step, and MLflow has to hold each point of the other's record
once. Then all is shut down and what is left over is counted.
Features must have been prepared: python jobs/prepare.py --config jobs/configs/sample_am.yaml
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EVENTS
from dimts.tracking.ui import start_ui, stop

# Before this folder, whose faults.py has the name of the package in tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from faults.grounds import cluster, small_disk
from faults.injection import MARK, ROOT, Training
from faults.kinds import (
    fill_disk,
    give_notice,
    halve_checkpoint,
    kill_driver,
    kill_raylet,
    kill_worker,
    terminate,
)

from benchmarks.faults import CONFIGS
from benchmarks.soak_findings import (
    EVERY_STEPS,
    EXPERIMENT,
    compare,
    processes_left,
    regular_checkpoints,
    resident_mb,
    shared_memory,
    shared_memory_left,
)

PORT = 5077
LOG_EVERY = 20
AWAY_S = 45.0
MANY_STEPS = 10_000_000
"""More than an hour's; the learning rate is a constant, so the number is no matter."""


class Server:
    """MLflow's server over SQLite in a folder, which can be killed, silent and there again."""

    def __init__(self, folder: Path) -> None:
        self.config = TrackingConfig(
            uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
        )
        Path(folder).mkdir(parents=True, exist_ok=True)
        from mlflow.tracking import MlflowClient

        MlflowClient(self.config.uri).search_experiments()  # makes the tables
        self.process = start_ui(self.config, PORT)

    def kill_for_a_while(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        time.sleep(AWAY_S)
        self.process = start_ui(self.config, PORT)

    def be_silent(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)
        time.sleep(AWAY_S)
        os.killpg(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)
        stop(self.process)


class Event(NamedTuple):
    """What came of one fault.

    Attributes:
        kind: of the fault.
        survived: the training went on, and nobody had to do more than the fault's title says.
        lost: steps that were computed again.
        seconds: the longest time without a step.
    """

    kind: str
    survived: bool
    lost: int
    seconds: float


class Soak:
    """The disturbed training and all around it that can fail."""

    def __init__(self, training: Training, nodes: Any, server: Server) -> None:
        self.training, self.nodes, self.server = training, nodes, server
        self.events: list[Event] = []
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9 of the worker": lambda: kill_worker(training, nodes),
            "kill -9 of its node's raylet": self._raylet,
            "notice that its node goes": self._notice,
            "kill -9 of the command": lambda: kill_driver(training, nodes),
            "SIGTERM to the command": lambda: terminate(training, nodes),
            "no room for a checkpoint": lambda: fill_disk(training, nodes),
            "latest checkpoint cut in half": lambda: halve_checkpoint(training, nodes),
            "MLflow's server killed": server.kill_for_a_while,
            "MLflow's server silent": server.be_silent,
        }

    def _raylet(self) -> None:
        kill_raylet(self.training, self.nodes)
        self.nodes.add_node(num_cpus=1, wait=False)

    def _notice(self) -> None:
        give_notice(self.training, self.nodes)
        self.nodes.add_node(num_cpus=1, wait=False)

    def inject(self, kind: str) -> Event:
        """One fault; waits until the training has come further than it was."""
        training = self.training
        before, begin = training.events(), time.time()
        reached, survived = max((e["step"] for e in before if "step" in e), default=0), True
        try:
            self.kinds[kind]()
            self._further(reached, kind)
        except UserError as error:
            print(f"          {error}", file=sys.stderr, flush=True)
            survived = False
            if not training.running():
                training.start()
            self._further(reached, kind)
        event = Event(kind, survived, *cost(training.events(), len(before), begin))
        self.events.append(event)
        return event

    def _further(self, reached: int, kind: str) -> None:
        training = self.training
        training.wait_for(lambda: training.reached() > reached + LOG_EVERY, f"steps after {kind}")


def cost(events: Sequence[Mapping[str, Any]], n_before: int, begin: float) -> tuple[int, float]:
    """Steps that were computed again since a fault, and the longest time without a record of one.

    The record has a line every `LOG_EVERY` steps, so this is what the steps are counted in.
    """
    steps = [
        (number, event["step"], event["time"])
        for number, event in enumerate(events)
        if "train/total_loss" in event.get("values", {})
    ]
    lost = sum(
        before - after + LOG_EVERY
        for (_, before, _), (number, after, _) in pairwise(steps)
        if number >= n_before and after <= before
    )
    times = [begin, *(at for number, _, at in steps if number >= n_before)]
    return lost, max(later - earlier for earlier, later in pairwise(times))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    folder = Path(tempfile.mkdtemp(prefix="dimts-soak-"))
    shm_before = shared_memory()
    mark = uuid.uuid4().hex
    with ExitStack() as stack:
        undisturbed = _training(folder / "undisturbed", {"ray.workers": "0"}, {})
        stack.callback(undisturbed.stop)
        stack.enter_context(small_disk(folder / "soak", 400))
        os.environ[MARK] = mark  # the server is to be found, too
        server = Server(folder / "mlflow")
        stack.callback(server.end)
        environment = {MARK: mark}
        nodes = stack.enter_context(cluster(2, environment))
        session = Path(nodes.head_node.get_session_dir_path())
        tracking = {
            "tracking.enabled": "true", "tracking.uri": f"http://127.0.0.1:{PORT}",
            "tracking.experiment": EXPERIMENT, "ray.workers": "1", "ray.cpus_per_worker": "1",
        }  # fmt: skip
        training = _training(folder / "soak", tracking, environment)
        stack.callback(keep_record, training, folder)
        stack.callback(training.stop)
        undisturbed.start()
        training.start()
        soak = Soak(training, nodes, server)
        growth = _run(soak, options)
        findings = compare(undisturbed, training, server.config, f"http://127.0.0.1:{PORT}")
    findings["processes left over"] = str(len(processes_left(mark, session)))
    findings["bytes of shared memory left over"] = str(shared_memory_left(shm_before))
    findings |= growth
    print(table(soak.events))
    print("\n".join(f"- {key}: {value}" for key, value in findings.items()))
    print(", ".join(map(str, machine_facts(["torch", "ray", "mlflow"]).values())))
    print(f"records: {folder}", file=sys.stderr)
    return 0


def keep_record(training: Training, folder: Path) -> None:
    """What can be looked at when the training's own disk is gone."""
    for file in (training.run_dir / EVENTS, training.console):
        if file.exists():
            shutil.copy(file, folder)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=120.0, help="seconds between faults (120)")
    parser.add_argument("--seed", type=int, default=0, help="of which fault comes when")
    return parser.parse_args(arguments)


def _training(folder: Path, more: Mapping[str, str], environment: Mapping[str, str]) -> Training:
    overrides = {
        "run.storage": str(folder), "run.name": "run", "training.max_steps": str(MANY_STEPS),
        "training.checkpoint_every": str(EVERY_STEPS), "training.validate_every": "1000",
        "training.sample_every": "0", "training.log_every": str(LOG_EVERY),
        "training.threads": "1", "training.ema_decay": "0.999", "training.batch_size": "4",
        "training.optimizer.final_share": "1", "training.optimizer.learning_rate": "0.0005",
        "training.aligner.fixed_share": "0", "tracking.enabled": "false", **more,
    }  # fmt: skip
    # Of the undisturbed one all, of the other enough for a regular one to be among the last.
    overrides["training.keep_checkpoints"] = "100000" if more["ray.workers"] == "0" else "8"
    pairs = [f"{key}={value}" for key, value in overrides.items()]
    return Training([ROOT / c for c in CONFIGS], pairs, folder / "run", environment)


def _run(soak: Soak, options: argparse.Namespace) -> dict[str, str]:
    """Faults until the time is over, then SIGTERM; how much the training's processes grew."""
    training, draw = soak.training, random.Random(options.seed)
    training.wait_for_step(2 * EVERY_STEPS)
    start, number = time.monotonic(), 0
    handles: dict[int, list[int]] = defaultdict(list)
    memory: dict[int, list[int]] = defaultdict(list)
    bag: list[str] = []
    while time.monotonic() < start + 60 * options.minutes:
        due = start + number * options.every
        while time.monotonic() < due:
            for pid in (training.rank_0(), training.process.pid if training.process else 0):
                with suppress(OSError):
                    handles[pid].append(len(os.listdir(f"/proc/{pid}/fd")))
                    memory[pid].append(resident_mb(pid))
            time.sleep(2)
        if not bag:  # at random, and each comes up
            bag = sorted(soak.kinds)
            draw.shuffle(bag)
        kind = bag.pop()
        number += 1
        print(f"{time.monotonic() - start:6.0f} s  step {training.reached():>7}  {kind}",
              file=sys.stderr, flush=True)  # fmt: skip
        event = soak.inject(kind)
        print(f"          lost {event.lost} steps, {event.seconds:.1f} s",
              file=sys.stderr, flush=True)  # fmt: skip
    # After a notice there are checkpoints at steps of its own, and those before them are removed.
    training.wait_for(lambda: bool(regular_checkpoints(training)), "a checkpoint to compare")
    training.terminate()
    grown = [
        counts[-1] - counts[len(counts) // 3] for counts in handles.values() if len(counts) > 9
    ]
    bigger = [mbs[-1] - mbs[len(mbs) // 3] for mbs in memory.values() if len(mbs) > 9]
    return {
        "file handles that a process had more at its end than after a third of its life, at most":
            str(max(grown, default=0)),
        "resident memory likewise, MB, at most": str(max(bigger, default=0)),
        "steps in all": str(training.reached()), "commands given": str(training.starts),
    }  # fmt: skip


def table(events: Sequence[Event]) -> str:
    lines = ["| fault | times | survived | steps lost | seconds to go on |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for kind in dict.fromkeys(event.kind for event in events):
        of_kind = [event for event in events if event.kind == kind]
        lost = sorted(event.lost for event in of_kind)
        took = sorted(event.seconds for event in of_kind)
        survived = sum(event.survived for event in of_kind)
        lines.append(
            f"| {kind} | {len(of_kind)} | {survived} | {median(lost):.0f} ({lost[0]}-{lost[-1]}) "
            f"| {median(took):.1f} ({took[0]:.1f}-{took[-1]:.1f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)

"""The faults that a training can meet, how each is made, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dimts.core.errors import UserError
from dimts.training.checkpoint import TRAINER_STATE
from faults.grounds import lose, raylet_of
from faults.injection import POLL_S, Training, kill

NOTICE_S = 20
LEFT_BYTES = 400_000
REASON = "DRAIN_NODE_REASON_PREEMPTION"


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

"""What an hour of faults has left of weights, record, processes and memory; for `soak.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from faults.injection import ROOT, Training, kill, marked, with_files_in

from dimts.bundles.bundle import WEIGHTS
from dimts.tracking.config import TrackingConfig

EVERY_STEPS = 200
"""Between two checkpoints."""
EXPERIMENT = "soak"


def resident_mb(pid: int) -> int:
    """Memory of a process, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def compare(
    undisturbed: Training, training: Training, store: TrackingConfig, address: str
) -> dict[str, str]:
    """Weights of the same step, and the points of both records up to it.

    Args:
        undisturbed: it goes on until it has that step, and is stopped.
        training: the one that was disturbed; it has ended.
        store: of MLflow's server.
        address: of the server, to which is sent what still waits.
    """
    step, ours = regular_checkpoints(training)[-1]
    undisturbed.wait_for(
        lambda: bool(list(undisturbed.run_dir.glob(f"checkpoint_epoch*_step{step}"))),
        f"step {step} of the undisturbed training", patience_s=7200,
    )  # fmt: skip
    undisturbed.terminate()
    [theirs] = undisturbed.run_dir.glob(f"checkpoint_epoch*_step{step}")
    same = (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()
    _deliver(training, address)
    return {
        f"weights of step {step} the same, bit for bit": "yes" if same else "NO",
        **_points(undisturbed, store, step),
    }


def regular_checkpoints(training: Training) -> list[tuple[int, Path]]:
    """Those that the undisturbed training has as well, by their steps: no notice made them."""
    return sorted(
        (step, folder) for folder in training.run_dir.glob("checkpoint_epoch*")
        if (step := int(folder.name.rpartition("step")[2])) % EVERY_STEPS == 0
    )  # fmt: skip


def _deliver(training: Training, address: str) -> None:
    """What waits for the server although it is there, as docs say to send it."""
    subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ui.py"), "--set",
         f"tracking.uri={address}", "--set", f"tracking.experiment={EXPERIMENT}",
         "--sync", str(training.run_dir)],
        check=False, capture_output=True, cwd=ROOT,
    )  # fmt: skip


def _points(undisturbed: Training, store: TrackingConfig, step: int) -> dict[str, str]:
    """How many points of the undisturbed record MLflow holds once, with the same value."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    timed = ("second", "wait")
    wanted: dict[str, dict[int, float]] = defaultdict(dict)
    for event in undisturbed.events():
        for key, value in event.get("values", {}).items():
            if event["step"] <= step and not any(word in key for word in timed):
                wanted[key][event["step"]] = value
    missing = different = twice = n = 0
    for key, values in wanted.items():
        found: dict[int, list[float]] = defaultdict(list)
        for run in runs:
            for point in client.get_metric_history(run.info.run_id, key):
                found[point.step].append(point.value)
        for at, value in values.items():
            n += 1
            missing += not found[at]
            twice += len(found[at]) > 1
            different += bool(found[at]) and found[at][0] != value
    return {
        "runs in MLflow": str(len(runs)),
        "points of the record, missing, there twice, with another value":
            f"{n}, {missing}, {twice}, {different}",
    }  # fmt: skip


def processes_left(mark: str, session: Path) -> list[int]:
    """Processes of the training, its server and its cluster, whose logs lie in a folder."""
    own = os.getpid()
    until = time.monotonic() + 90  # agents of a cluster that was shut down notice it by and by
    while (
        left := list({*marked(mark), *with_files_in(session)} - {own})
    ) and time.monotonic() < until:
        time.sleep(1)
    for pid in left:
        with suppress(ProcessLookupError):
            kill(pid)
    return left


def shared_memory_left(before: int) -> int:
    """Bytes more than before, once those that are being given back are."""
    until = time.monotonic() + 30
    while (left := shared_memory() - before) > 0 and time.monotonic() < until:
        time.sleep(1)
    return max(0, left)


def shared_memory() -> int:
    """Bytes in use in the machine's shared memory."""
    free = os.statvfs("/dev/shm")
    return (free.f_blocks - free.f_bfree) * free.f_frsize

"""Ctrl-C and SIGTERM ask a run to end with a checkpoint; a second one ends it at once.

The wish is a file in the run's folder, so that it reaches the process that trains, wherever that
runs.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dimts.launch.run_folder import is_last_start
from dimts.launch.settings import Launch
from dimts.storage.paths import AnyPath

STOP_FILE = "stop_requested"
EARLY_FILE = "stopped_early"
"""Beside it: it is a sweep that wishes so, as other runs are better."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_SIGNAL_S = 0.5
"""Within this a second one is the first again: `timeout` signals the job, then its group."""


def stop_requested(run_dir: AnyPath) -> bool:
    """Whether someone wishes the run to end."""
    return (run_dir / STOP_FILE).exists()


def request_stop(run_dir: AnyPath, early: bool = False) -> None:
    """Wish the run to end after its current step, with a checkpoint; `early`: a sweep does."""
    for name in (EARLY_FILE, STOP_FILE) if early else (STOP_FILE,):
        (run_dir / name).write_bytes(b"")


def stop_run(launch: Launch, early: bool = False) -> None:
    """Wish the same where its workers look, unless it was started again elsewhere; a
    `StorageError` if nobody answers."""
    launch.run_dir.mkdir(parents=True, exist_ok=True)
    if is_last_start(launch):
        request_stop(launch.place, early)


def stopped_early(run_dir: AnyPath) -> bool:
    """Whether it is a sweep that wishes so."""
    return (run_dir / EARLY_FILE).exists()


def clear_stop(run_dir: AnyPath) -> None:
    """Forget a wish that an earlier start of the run was given."""
    for name in (STOP_FILE, EARLY_FILE):
        (run_dir / name).unlink(missing_ok=True)


@contextmanager
def stop_on_signal(run_dir: Path) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM becomes a wish to stop, the second takes effect."""
    requested_at = -math.inf

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if time.monotonic() - requested_at < ONE_SIGNAL_S:
            return
        if stop_requested(run_dir):
            if not callable(handler := previous[signal.Signals(number)]):
                raise KeyboardInterrupt
            handler(number, frame)
            return
        requested_at = time.monotonic()
        request_stop(run_dir)
        print("stopping after this step, with a checkpoint ...", flush=True)

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

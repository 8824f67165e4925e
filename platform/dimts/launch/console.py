"""A run's progress as lines that a person reads, from its ``metrics.jsonl``."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

EVENTS = "metrics.jsonl"
POLL_S = 0.3


def append_event(run_dir: Path, event: Mapping[str, Any]) -> None:
    """Add one line to the run's record on disk, and end one that a kill has cut off.

    Each has the time of day in seconds; an event is ``step`` and ``values``, a ``text`` for
    people, or the ``start`` of a process that trains.

    Raises:
        OSError: it was not written; of a disk that is almost full, too.
    """
    text = json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n"
    with (run_dir / EVENTS).open("ab+", buffering=0) as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            text = text if file.read(1) == b"\n" else "\n" + text
        line = text.encode()
        if file.write(line) != len(line):
            with suppress(OSError):
                file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def line(event: Mapping[str, Any]) -> str | None:
    """What to print for an event; None for nothing."""
    if "text" in event:
        return str(event["text"])
    if "values" not in event:
        return None
    values, step = event["values"], event["step"]
    if "val/total_loss" in values:
        return (
            f"step {step:>6}   validation {values['val/total_loss']:.4f}   "
            f"mel {values['val/mel_mse']:.3f}   duration {values['val/duration_loss']:.3f}"
        )
    if "train/total_loss" in values:
        return (
            f"step {step:>6}   loss {values['train/total_loss']:.4f}   "
            f"mel {values['train/mel_mse']:.3f}   duration {values['train/duration_loss']:.3f}   "
            f"{values['train/frames_per_second']:,.0f} frames/s"
        )
    return None


@contextmanager
def following(run_dir: Path) -> Iterator[None]:
    """Inside, print the events of the run as they come, whichever process writes them."""
    path = run_dir / EVENTS
    start = path.stat().st_size if path.exists() else 0
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, start, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, position: int, done: threading.Event) -> None:
    for event in written(path, position, lambda: done.wait(POLL_S)):
        if (text := line(event)) is not None:
            print(text, flush=True)


def written(path: Path, position: int, wait: Callable[[], bool]) -> Iterator[Any]:
    """Lines of JSON as some process writes them.

    Args:
        path: the file, which may not be there yet.
        position: where to begin, in bytes.
        wait: waits a little; whether nobody writes any more.
    """
    last = False
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break
                    position += len(raw)
                    with suppress(ValueError):  # what was cut off
                        yield json.loads(raw)
        if last:
            return
        last = wait()

"""A run's progress as lines that a person reads, from its event log."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimts.tracking.event_log import EVENTS, follow_events

POLL_S = 0.3


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
    for event in follow_events(path, position, lambda: done.wait(POLL_S)):
        if (text := line(event)) is not None:
            print(text, flush=True)

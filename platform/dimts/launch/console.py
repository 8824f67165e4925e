"""A run's progress as lines that a person reads, from its event log."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dimts.core.metric import Metric
from dimts.launch.settings import Launch
from dimts.tracking.event_log import EVENTS, follow_events

POLL_S = 0.3


def line(event: Mapping[str, Any], metrics: Sequence[Metric]) -> str | None:
    """What to print for an event; None for nothing.

    Args:
        event: of the log.
        metrics: of the family; those of validation with a short name are shown.
    """
    if "text" in event:
        return str(event["text"])
    if "values" not in event:
        return None
    values, shown = event["values"], [m for m in metrics if m.when == "validation" and m.short]
    for split in ("val", "train"):
        keys = {metric: metric.name.replace("val/", f"{split}/") for metric in shown}
        parts = [f"{m.short} {m.text(values[key])}" for m, key in keys.items() if key in values]
        if not parts or keys[shown[0]] not in values:
            continue
        if split == "val":
            parts[0] = f"validation {parts[0].removeprefix(f'{shown[0].short} ')}"
        for key, value in values.items():
            if key.endswith("_per_second"):
                unit = key.removeprefix("train/").removesuffix("_per_second")
                parts.append(f"{value:,.0f} {unit}/s")
        return "   ".join((f"step {event['step']:>6}", *parts))
    return None


@contextmanager
def following(launch: Launch) -> Iterator[None]:
    """Inside, print the events of the run as they come, whichever process writes them."""
    path = launch.run_dir / EVENTS
    start = path.stat().st_size if path.exists() else 0
    done = threading.Event()

    def follow() -> None:
        for event in follow_events(path, start, lambda: done.wait(POLL_S)):
            if (text := line(event, launch.family.metrics)) is not None:
                print(text, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

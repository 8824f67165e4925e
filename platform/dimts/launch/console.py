"""A run's progress as lines that a person reads, from its event log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dimts.core.metric import Metric
from dimts.storage.files import file_size
from dimts.storage.paths import AnyPath, StorageError
from dimts.tracking.event_log import EVENTS, follow_events

POLL_S = 0.3


def line(event: Mapping[str, Any], metrics: Sequence[Metric]) -> str | None:
    """What to print for an event; None for nothing. Of the family's metrics those of validation
    with a short name are shown."""
    if "text" in event:
        return str(event["text"])
    values = event.get("values", {})
    shown = [m for m in metrics if m.when == "validation" and m.short]
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
def following(
    folder: AnyPath, metrics: Sequence[Metric], meanwhile: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, print the events of a run as they come, whichever process writes them.

    `meanwhile` is called between two looks at the folder, which may be in object storage.
    """
    log, done = folder / EVENTS, threading.Event()
    start = file_size(log)

    def ended() -> bool:
        with suppress(StorageError):  # it is tried again
            meanwhile()
        return done.wait(POLL_S)

    def follow() -> None:
        for event in follow_events(log, start, ended):
            if (text := line(event, metrics)) is not None:
                print(text, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

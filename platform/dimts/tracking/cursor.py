"""How far the event log of a folder was sent to MLflow, stored beside the log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dimts.core.lock import taken
from dimts.storage.files import write_text
from dimts.tracking.event_log import EVENTS, Entry, read_events

CURSOR = "mlflow_cursor.json"
SENT = ("start", "values", "tags", "artifact", "model", "end")
"""Kinds of events that MLflow gets."""
_BEGINNING = Entry(0, 0, {})


class Cursor:
    """Reads what is not sent yet; only the process that has `lock` moves it.

    A cursor that does not fit its log, as one of the two is older than the other or was replaced,
    begins at the first event again: the sender asks the store what it has.

    Attributes:
        run_id: MLflow's, of the run to which the events went; empty if none went yet.
    """

    def __init__(self, folder: Path) -> None:
        self.run_id, self._last = "", _BEGINNING
        self._postponed: list[int] = []
        self._log = folder / EVENTS
        self._file = folder / CURSOR
        self._lock_fd: int | None = None
        self._load()

    def lock(self) -> bool:
        """Become the sender; False while another process is. The lock dies with its process."""
        if self._lock_fd is not None:
            return True
        descriptor = os.open(self._log, os.O_RDWR | os.O_CREAT, 0o644)
        if not taken(descriptor):
            os.close(descriptor)
            return False
        self._lock_fd = descriptor
        self._load()
        return True

    def unlock(self) -> None:
        """Let another process send."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def pending(self) -> Iterator[Entry]:
        """What was not sent yet, oldest first."""
        for entry in read_events(self._log, self._last.end):
            if any(kind in entry.event for kind in SENT):
                yield entry

    def postponed(self) -> list[Entry]:
        """What waits outside the order."""
        return [entry for begin in self._postponed for entry in self._at(begin)]

    def n_waiting(self) -> int:
        """How many events are to be sent."""
        if self._lock_fd is None:  # another process may have sent some
            self._load()
        return sum(1 for _ in self.pending()) + len(self._postponed)

    def start(self) -> Entry | None:
        """The event that began the run."""
        return next((entry for entry in read_events(self._log) if "start" in entry.event), None)

    def use_run(self, run_id: str) -> None:
        """Send to this run; one that is another than before gets everything."""
        if self.run_id != run_id:
            self.run_id, self._last, self._postponed = run_id, _BEGINNING, []
            self._store()

    def move(self, entry: Entry, postpone: bool = False) -> None:
        """All before `entry` were sent, and it was, too, or waits among `postponed` from now on."""
        self._last = entry
        self._postponed += [entry.begin] if postpone else []
        self._store()

    def settle(self, entry: Entry) -> None:
        """A postponed event was sent."""
        self._postponed.remove(entry.begin)
        self._store()

    def _at(self, begin: int) -> list[Entry]:
        found = next(read_events(self._log, begin), None)
        return [found] if found and found.begin == begin else []

    def _store(self) -> None:
        assert self._lock_fd is not None, "only the sender moves the cursor"
        last = (self._last.begin, self._last.end, self._last.event.get("time"))
        state = {"run_id": self.run_id, "last": last, "postponed": self._postponed}
        write_text(self._file, json.dumps(state, indent=1))

    def _load(self) -> None:
        self.run_id, self._last, self._postponed = "", _BEGINNING, []
        # One that a crash of the machine emptied is like none.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            state = json.loads(self._file.read_text(encoding="utf-8"))
            self.run_id = str(state["run_id"])
            begin, end, time = state["last"]
            for entry in self._at(int(begin)):
                if (entry.end, entry.event.get("time")) == (end, time):
                    self._last, self._postponed = entry, [int(n) for n in state["postponed"]]

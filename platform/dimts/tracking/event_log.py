"""The event log of a run or a sweep: one JSON object a line, and the only durable record of it.

Every event has ``time`` in seconds since 1970, and one of the keys that docs/tracking.md lists. The
console follows the log, and `mlflow_sender` sends it from a cursor.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dimts.storage.files import file_size, open_at
from dimts.storage.paths import AnyPath, StorageError

EVENTS = "metrics.jsonl"
MAX_WAITING = 10_000
"""Events that wait in memory for room on a full disk; older ones are lost."""

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """An event and the bytes of the log that hold it, ``begin`` to ``end``."""

    begin: int
    end: int
    event: dict[str, Any]


class EventLog:
    """Appends events to a log; what a full disk does not take follows when there is room."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._n_lost = 0
        self._warned = False

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event, which has the time of this call; never raises for a full disk."""
        self._waiting.append({"time": _now(), **event})
        try:
            while self._waiting:
                append_event(self._folder, self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self._n_lost += 1
            if not self._warned:
                self._warned = True
                log.warning("%s takes no more: %s", self._folder / EVENTS, error.strerror)

    def warn_unwritten(self) -> None:
        """Say how many events the disk has not taken, when nothing more is to come."""
        if n_unwritten := self._n_lost + len(self._waiting):
            log.warning("%s lacks %d events", self._folder / EVENTS, n_unwritten)


def append_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add one line to the log of a folder, and end one that a kill has cut off.

    Raises:
        OSError: it was not written; of a disk that is almost full, too.
    """
    text = json.dumps({"time": _now(), **event}, ensure_ascii=False) + "\n"
    with (folder / EVENTS).open("ab+", buffering=0) as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            text = text if file.read(1) == b"\n" else "\n" + text
        line = text.encode()
        if file.write(line) != len(line):
            with suppress(OSError):
                file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_events(path: AnyPath, position: int = 0) -> Iterator[Entry]:
    """Events of a log from a byte position on; what was cut off by a kill is passed over."""
    with suppress(FileNotFoundError), open_at(path, position) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written now, or its writer was killed
            begin, position = position, position + len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield Entry(begin, position, event)


def follow_events(
    path: AnyPath, position: int, wait: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Events as some process writes them, from a byte position on.

    `wait` waits a little and says whether nobody writes any more; the log may not be there yet.
    """
    last = False
    while True:
        with suppress(StorageError):  # it may be back the next time
            # A group on another machine may go on from less than was told already.
            size = file_size(path)
            position = min(position, size)
            for entry in read_events(path, position) if position < size else ():
                position = entry.end
                yield entry.event
        if last:
            return
        last = wait()


def _now() -> float:
    return round(time.time(), 3)

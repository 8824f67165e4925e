"""A queue on disk between a training that must not wait and a store that may be away.

Layout of the folder::

    00000001.jsonl      records, one JSON object a line; each writer appends to its own file
    files/              copies of the files that records speak of
    sent.json           how far each file was sent, and what the sender has to remember
    dropped.json        how many records the writers had to drop
    lock                held by the one process that sends

A writer never shares its file, so a killed run that goes on for a while beside its
successor does no harm. Only the sender, who holds the lock, moves ``sent.json`` and
removes what was sent; a writer whose file is gone begins another one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from dimts.core.posix import fcntl
from dimts.tracking.dropped import Dropped
from dimts.tracking.files import size_of, write_json

SEGMENT_BYTES = 4 * 2**20
# Of the limit; the rest is left to metrics, which are small and cannot be had again.
FILES_SHARE = 0.75


@dataclass(frozen=True)
class Record:
    """One thing to send: its kind and fields, and where it ends in which segment."""

    kind: str
    fields: dict[str, Any]
    segment: str
    end: int


class Spool:
    """The queue of one run.

    Args:
        folder: made when missing.
        limit_bytes: records beyond it are refused unless they are appended with ``always``;
            files are from `FILES_SHARE` of it on.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self._limit = limit_bytes
        self._guard = threading.Lock()
        self._segment: int | None = None
        self._n_files = 0
        self._lock_fd: int | None = None
        self._offsets: dict[str, int] = {}
        self.memory: dict[str, Any] = {}
        self.dropped = Dropped.load(folder / "dropped.json")
        self._load_state()
        self._pending_bytes = sum(self._unsent(path) for path in self._segments())
        self._pending_bytes += sum(size_of(path) for path in self.files.iterdir())

    # Writing

    def append(self, kind: str, fields: dict[str, Any], always: bool = False) -> bool:
        """Add a record; False when the spool is full and the record was refused."""
        fields = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
        line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
        with self._guard:
            if not always and self._pending_bytes + len(line) > self._limit:
                return False
            while not self._write(self._own_segment(), line):
                self._segment = None
            self._pending_bytes += len(line)
        return True

    def _write(self, segment: Path, line: bytes) -> bool:
        """Add a line to our file; False when the sender has removed it."""
        try:
            file = segment.open("r+b", buffering=0)  # Never makes it anew.
        except FileNotFoundError:
            return False
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)  # Waits while the sender looks at it to remove it.
            if not os.fstat(file.fileno()).st_nlink:
                return False
            begin = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._cut(file, begin)
                raise
            if file.tell() >= SEGMENT_BYTES:
                self._segment = None
        return True

    def _cut(self, file: FileIO, size: int) -> None:
        """Take half a line off our file, or leave the file: what came after would be lost too."""
        try:
            file.truncate(size)
        except OSError:
            self._segment = None

    def drop(self, step: int | None = None) -> None:
        """Count a record that was refused; one of metrics has a step."""
        self.dropped.add(step)
        with suppress(OSError):
            self.dropped.store(self.folder / "dropped.json")

    def end_writing(self) -> None:
        """Nothing is appended any more, so our file may be removed when it was sent."""
        with self._guard:
            self._segment = None

    def keep(self, source: Path, always: bool = False, skip: tuple[str, ...] = ()) -> str | None:
        """Copy a file or folder into the spool.

        Args:
            source: may be deleted when this returns.
            always: keep it even when the spool is full.
            skip: names inside a folder that are left out.

        Returns:
            The name that `kept` knows it by, or None when the spool is full.

        Raises:
            OSError: there is no such file, or no place on the disk.
        """
        size = size_of(source)
        with self._guard:
            if not always and self._pending_bytes + size > self._limit * FILES_SHARE:
                return None
            self._n_files += 1
            name = f"{self._own_segment().stem}-{self._n_files:06d}"
            self._pending_bytes += size
        target = self.files / name / source.name
        copied = 0
        try:
            target.parent.mkdir()
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*skip))
            else:
                shutil.copyfile(source, target)
            copied = size_of(target)
        except OSError:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise
        finally:
            with self._guard:
                self._pending_bytes += copied - size
        return f"{name}/{source.name}"

    def _own_segment(self) -> Path:
        while self._segment is None:
            if self._lock_fd is None:  # A number that another process has sent is not free.
                self._load_state()
            taken = [int(path.stem) for path in self._segments()]
            taken += [int(name.split("-")[0]) for name in os.listdir(self.files)]
            taken += [int(Path(name).stem) for name in self._offsets]
            number = max(taken, default=0) + 1
            with suppress(FileExistsError):
                (self.folder / f"{number:08d}.jsonl").touch(exist_ok=False)
                self._segment = number
        return self.folder / f"{self._segment:08d}.jsonl"

    # Sending

    def lock(self) -> bool:
        """Become the sender; False while another process is. The lock dies with its process."""
        if self._lock_fd is not None:
            return True
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._lock_fd = descriptor
        self._load_state()
        return True

    def unlock(self) -> None:
        """Let another process send."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def pending(self) -> Iterator[Record]:
        """What was not sent yet, oldest first."""
        for path in self._segments():
            yield from self._read(path)

    def commit(self, record: Record) -> None:
        """`record` and all before it in its segment were sent; `memory` is stored with it."""
        try:
            self._pass(record)
        except OSError:  # The disk is full, and what was sent is in its way.
            self._forget_file(record)
            self._pass(record)
        self._forget_file(record)

    def postpone(self, record: Record) -> None:
        """Go on with what follows `record`, which waits among `postponed` from now on."""
        postponed = self.memory.setdefault("postponed", [])
        postponed.append({"kind": record.kind, **record.fields})
        self._pass(record)

    def postponed(self) -> list[Record]:
        """Records that wait outside the order."""
        waiting = [dict(fields) for fields in self.memory.get("postponed", [])]
        return [Record(fields.pop("kind"), fields, "", 0) for fields in waiting]

    def settle(self, record: Record) -> None:
        """A postponed record was sent."""
        self.memory["postponed"].remove({"kind": record.kind, **record.fields})
        self.remember()
        self._forget_file(record)

    def remember(self) -> None:
        """Store `memory`."""
        assert self._lock_fd is not None, "only the sender commits"
        state = {"offsets": self._offsets, "memory": self.memory}
        write_json(self.folder / "sent.json", state)

    def _pass(self, record: Record) -> None:
        begin = self._offsets.get(record.segment, 0)
        self._offsets[record.segment] = record.end
        self._freed(record.end - begin)
        self.remember()

    def _forget_file(self, record: Record) -> None:
        if kept := record.fields.get("file"):
            folder = self.kept(kept).parent
            self._freed(size_of(folder))
            shutil.rmtree(folder, ignore_errors=True)

    def _freed(self, n_bytes: int) -> None:
        with self._guard:
            self._pending_bytes = max(0, self._pending_bytes - n_bytes)

    def kept(self, name: str) -> Path:
        """The copy that `keep` made under this name."""
        return self.files / name

    def n_pending(self) -> int:
        """How many records wait."""
        if self._lock_fd is None:  # Another process may have sent some.
            self._load_state()
        return sum(1 for _ in self.pending()) + len(self.postponed())

    def sweep(self) -> None:
        """Remove what nobody needs: sent segments, files that no record speaks of."""
        assert self._lock_fd is not None, "only the sender removes"
        with self._guard:
            own = self._segment
        for path in self._segments():
            if own is None or int(path.stem) < own:
                self._remove_sent(path)
        if own is None:
            return  # A writer elsewhere may have copied a file and not yet said so.
        waiting = [*self.pending(), *self.postponed()]
        needed = {record.fields.get("file", "").split("/")[0] for record in waiting}
        for folder in self.files.iterdir():
            if int(folder.name.split("-")[0]) < own and folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_sent(self, path: Path) -> None:
        """Remove a segment that was sent; no writer can add to it meanwhile."""
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if next(self._read(path), None) is None:
                path.unlink()

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def _unsent(self, path: Path) -> int:
        return max(0, path.stat().st_size - self._offsets.get(path.name, 0))

    def _read(self, path: Path) -> Iterator[Record]:
        end = self._offsets.get(path.name, 0)
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # A write that was cut short by a kill, or is being made now.
                end += len(line)
                with suppress(ValueError):  # Half a line that a full disk left of two.
                    fields = json.loads(line)
                    yield Record(fields.pop("kind"), fields, path.name, end)

    def _load_state(self) -> None:
        # A state that a crash of the machine emptied is like none: the sender asks the store.
        with suppress(FileNotFoundError, ValueError):
            state = json.loads((self.folder / "sent.json").read_text(encoding="utf-8"))
            self._offsets, self.memory = state["offsets"], state["memory"]

"""A queue on disk between a training that must not wait and a store that may be away.

Layout of the folder::

    00000001.jsonl      records, one JSON object a line; each writer appends to its own file
    files/              copies of the files that records speak of
    sent.json           how far each file was sent, and what the sender has to remember
    lock                held by the one process that sends

A writer never shares its file, so a killed run that goes on for a while beside its
successor does no harm. Only the sender, who holds the lock, moves ``sent.json``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEGMENT_BYTES = 4 * 2**20


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
        limit_bytes: records beyond it are refused unless they are appended with ``always``.
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
        self._load_state()
        self._pending_bytes = sum(self._unsent(path) for path in self._segments())
        self._pending_bytes += sum(_size(path) for path in self.files.iterdir())

    # Writing

    def append(self, kind: str, fields: dict[str, Any], always: bool = False) -> bool:
        """Add a record; False when the spool is full and the record was refused."""
        fields = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **fields}
        line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
        with self._guard:
            if not always and self._pending_bytes + len(line) > self._limit:
                return False
            path = self._own_segment()
            with path.open("ab", buffering=0) as file:
                file.write(line)
                if file.tell() >= SEGMENT_BYTES:
                    self._segment = None
            self._pending_bytes += len(line)
        return True

    def keep(self, source: Path, always: bool = False, skip: tuple[str, ...] = ()) -> str | None:
        """Copy a file or folder into the spool.

        Args:
            source: may be deleted when this returns.
            always: keep it even when the spool is full.
            skip: names inside a folder that are left out.

        Returns:
            The name that `kept` knows it by, or None when the spool is full.
        """
        size = _size(source)
        with self._guard:
            if not always and self._pending_bytes + size > self._limit:
                return None
            self._n_files += 1
            name = f"{self._own_segment().stem}-{self._n_files:06d}"
            self._pending_bytes += size
        target = self.files / name / source.name
        target.parent.mkdir()
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*skip))
        else:
            shutil.copyfile(source, target)
        return f"{name}/{source.name}"

    def _own_segment(self) -> Path:
        while self._segment is None:
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
        except OSError:
            os.close(descriptor)
            return False
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
        assert self._lock_fd is not None, "only the sender commits"
        begin = self._offsets.get(record.segment, 0)
        self._offsets[record.segment] = record.end
        self._store_state()
        kept = record.fields.get("file")
        freed = record.end - begin
        if kept:
            folder = self.kept(kept).parent
            freed += _size(folder)
            shutil.rmtree(folder, ignore_errors=True)
        with self._guard:
            self._pending_bytes = max(0, self._pending_bytes - freed)

    def kept(self, name: str) -> Path:
        """The copy that `keep` made under this name."""
        return self.files / name

    def n_pending(self) -> int:
        """How many records wait."""
        return sum(1 for _ in self.pending())

    def sweep(self) -> None:
        """Remove what earlier writers left and nobody needs: sent segments, orphaned files."""
        assert self._lock_fd is not None, "only the sender removes"
        with self._guard:
            own = self._segment
        if own is None:
            return
        needed = {record.fields.get("file", "").split("/")[0] for record in self.pending()}
        for path in self._segments():
            if int(path.stem) < own and next(self._read(path), None) is None:
                path.unlink(missing_ok=True)
        for folder in self.files.iterdir():
            if int(folder.name.split("-")[0]) < own and folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)

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
                fields = json.loads(line)
                yield Record(fields.pop("kind"), fields, path.name, end)

    def _load_state(self) -> None:
        with suppress(FileNotFoundError):
            state = json.loads((self.folder / "sent.json").read_text(encoding="utf-8"))
            self._offsets, self.memory = state["offsets"], state["memory"]

    def _store_state(self) -> None:
        write_json(self.folder / "sent.json", {"offsets": self._offsets, "memory": self.memory})


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file so that a reader sees the old one or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    draft.replace(path)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 when there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

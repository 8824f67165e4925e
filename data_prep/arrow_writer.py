"""Arrow IPC files in groups of bounded size; files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BATCH_BYTES = 8_000_000  # of arrays held in memory while writing


def grouped(rows: Iterable[Any], n_bytes: float) -> Iterator[list[Any]]:
    """Consecutive rows of at most `n_bytes` of `arrays` together, at least one row each."""
    group: list[Any] = []
    size = 0
    for row in rows:
        of_row = sum(array.nbytes for array in row.arrays.values())
        if group and size + of_row > n_bytes:
            yield group
            group, size = [], 0
        group.append(row)
        size += of_row
    if group:
        yield group


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its name, safe on disk, when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file; it is never seen half written."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)

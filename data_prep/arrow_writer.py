"""Arrow IPC files: ragged mels as one flat buffer, files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from dimts.audio.mel import Float32Array

BATCH_BYTES = 8_000_000  # of mel held in memory while writing


class _WithMel(Protocol):
    @property
    def mel(self) -> Float32Array: ...


Row = TypeVar("Row", bound=_WithMel)


def mel_column(mels: Sequence[Float32Array], n_mels: int) -> pa.LargeListArray:
    """float32 [T, n_mels] each -> ``large_list<fixed_size_list<float>[n_mels]>``.

    A reader slices the one flat buffer, which takes microseconds; see `FeatureSplit.mel`.
    """
    offsets = np.cumsum([0, *map(len, mels)], dtype=np.int64)
    flat = np.empty((offsets[-1], n_mels), np.float32)
    for mel, start in zip(mels, offsets, strict=False):
        if len(mel):
            flat[start : start + len(mel)] = mel
    frames = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), n_mels)
    return pa.LargeListArray.from_arrays(pa.array(offsets), frames)


def grouped(rows: Iterable[Row], n_bytes: float) -> Iterator[list[Row]]:
    """Consecutive rows of at most `n_bytes` of mel together, at least one row each."""
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and size + row.mel.nbytes > n_bytes:
            yield group
            group, size = [], 0
        group.append(row)
        size += row.mel.nbytes
    if group:
        yield group


def to_ipc_bytes(table: pa.Table) -> bytes:
    """The table as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


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

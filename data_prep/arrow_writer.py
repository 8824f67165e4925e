"""Rows in groups of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

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

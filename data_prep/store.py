"""What earlier runs left in a folder of features, addressed by content.

Finished features are in the shards themselves. `.work/` beside them holds what a shard cannot:
chunks of a run that is under way (or was killed), what came of recordings that are not used,
and the stamps that tell without reading a recording that it has not changed. Every file here
appears complete or not at all, so whatever a killed run left is true; any of it may be deleted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.arrow_writer import BATCH_BYTES, atomic_file, grouped, write_atomic
from data_prep.extract import Extracted, chunk_table, hash_file
from data_prep.recordings import FileStamp, Root, stamp_of
from data_prep.utterance import Reason, Segment
from dimts.core import lock
from dimts.core.errors import UserError
from dimts.features.feature_set import holds, read_batches
from dimts.features.manifest import SHARD_NAME
from dimts.features.schema import Array, Arrays, Column, Extractor

STAMPS, UNUSED = "stamps.arrow", "unused.arrow"
WORK_FILES = (STAMPS, UNUSED)

STAMP_COLUMNS = ("audio", "size", "mtime_ns", "ctime_ns", "sha256")
SEGMENT_COLUMNS = ("audio", "from", "to")
REFUSAL_COLUMNS = ("key", "reason", "detail")


@dataclass(frozen=True, slots=True)
class Features:
    """Of one segment by one extractor; `arrays` are views of a file, see `Extracted`."""

    key: str
    start: float
    seconds: float
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a segment has no features."""

    key: str
    reason: Reason
    detail: str
    arrays: Arrays = field(default_factory=dict)


Result = Features | Refusal


def key_column(name: str, n_extractors: int) -> str:
    """Where the keys of an extractor's arrays stand in a file with those of several, or its own."""
    return f"{name}.key" if n_extractors > 1 else "key"


class Store:
    """Results by key, and the hash of each audio file that has not changed since it was read."""

    WORK = ".work"

    def __init__(self, folder: Path, extractors: Sequence[Extractor]) -> None:
        self.folder = folder
        self.extractors = extractors
        self.work = folder / self.WORK
        self.new_shards = self.work / "new"
        self.parts = self.work / "parts"
        self._results: dict[str, Result] = {}
        self._hashes: dict[tuple[str, FileStamp], str] = {}
        self._sizes: dict[str, set[int]] = {}
        self._n_chunks = 0
        self.new_shards.mkdir(parents=True, exist_ok=True)
        self.parts.mkdir(exist_ok=True)
        for batch in _batches(self._stamps_file, STAMP_COLUMNS):
            self._read_stamps(batch)
        for file in [*shards_in(folder), *shards_in(self.new_shards)]:
            for batch in _batches(file):
                self._read_features(batch)
        chunks = self._chunk_files()
        for file in [self._unused_file, *chunks]:
            self._read_chunk(file)
        if chunks:
            self._n_chunks = int(chunks[-1].stem.removeprefix("chunk-"))
        # Workers had finished these when their run was killed.
        for file in sorted(self.parts.glob("*.arrow"), key=lambda file: file.stat().st_mtime_ns):
            self.commit(file)

    @property
    def _stamps_file(self) -> Path:
        return self.work / STAMPS

    @property
    def _unused_file(self) -> Path:
        return self.work / UNUSED

    def _chunk_files(self) -> list[Path]:
        return sorted(self.work.glob("chunk-*.arrow"))

    def sha256(self, root: Root, audio: str) -> str | None:
        """Hash of an audio file if it was read before; it is read again only if it may differ."""
        try:
            stamp = stamp_of(root, audio)
            known = self._hashes.get((audio, stamp))
            if known is None and stamp.size in self._sizes.get(audio, ()):
                if not isinstance(root, Path):  # it is hashed when it is fetched
                    return None
                stamp, known = hash_file(root / audio)
                self._remember(audio, stamp, known)
        except OSError:  # extraction will meet it again and say so
            return None
        return known

    def result(self, key: str) -> Result | None:
        """What was made of the segment and the settings behind `key`."""
        return self._results.get(key)

    def commit(self, chunk: bytes | Path) -> dict[Segment, str | Refusal]:
        """Keep a chunk of `extract_chunk`: from now on a kill does not lose it.

        Args:
            chunk: its bytes, or a file in `parts`.

        Returns:
            For each segment the key of its features, or the refusal (without a key if the
            segment must be tried again next time).
        """
        self._n_chunks += 1
        file = self.work / f"chunk-{self._n_chunks:06d}.arrow"
        if isinstance(chunk, Path):
            os.replace(chunk, file)
        else:
            write_atomic(file, chunk)
        return self._read_chunk(file)

    def settle(self, audios: Iterable[str], unused: Iterable[Result]) -> None:
        """Write down what the shards do not hold, so that the chunks of this run can go.

        Args:
            audios: recordings of the corpus; their stamps are kept.
            unused: refusals, and features of segments whose text does not fit them.
        """
        last = {audio: (stamp, sha256) for (audio, stamp), sha256 in self._hashes.items()}
        stamps = [Extracted(Segment(a), *last[a]) for a in audios if a in last]
        rest = [_as_extracted(result) for result in unused if result.key]
        columns = [column for extractor in self.extractors for column in extractor.columns]
        for file, rows in ((self._stamps_file, stamps), (self._unused_file, rest)):
            if not _has_rows(file, rows, columns):
                _write(file, rows, columns)

    def sweep(self) -> None:
        """Remove what the shards and `settle` have made superfluous."""
        for file in self._chunk_files():
            file.unlink()
        shutil.rmtree(self.new_shards)
        # Workers that a killed run has left behind may still write there.
        shutil.rmtree(self.parts, ignore_errors=True)

    def _remember(self, audio: str, stamp: FileStamp, sha256: str) -> None:
        # Later knowledge goes last: `settle` keeps the last stamp of each file.
        self._hashes.pop((audio, stamp), None)
        self._hashes[audio, stamp] = sha256
        self._sizes.setdefault(audio, set()).add(stamp.size)

    def _read_stamps(self, batch: pa.RecordBatch) -> None:
        for audio, size, mtime_ns, ctime_ns, sha256 in _rows(batch, STAMP_COLUMNS):
            if sha256:
                self._remember(audio, FileStamp(size, mtime_ns, ctime_ns), sha256)

    def _read_features(self, batch: pa.RecordBatch) -> None:
        for extractor in self.extractors:
            if not all(holds(batch.schema, column) for column in extractor.columns):
                continue  # of others, or of other settings
            keys = key_column(extractor.name, 2)
            keys = keys if keys in batch.schema.names else "key"
            arrays = {c.name: _arrays(batch, c) for c in extractor.columns}
            facts = _rows(batch, (keys, "start", "seconds"))
            for (key, start, seconds), *row in zip(facts, *arrays.values(), strict=True):
                if key and all(map(len, row)):
                    views = dict(zip(arrays, row, strict=True))
                    self._results[key] = Features(key, start, seconds, views)

    def _read_chunk(self, file: Path) -> dict[Segment, str | Refusal]:
        outcomes: dict[Segment, str | Refusal] = {}
        for batch in _batches(file, (*STAMP_COLUMNS, *SEGMENT_COLUMNS, *REFUSAL_COLUMNS)):
            self._read_stamps(batch)
            self._read_features(batch)
            for audio, start, end, key, reason, detail in _rows(
                batch, (*SEGMENT_COLUMNS, *REFUSAL_COLUMNS)
            ):
                outcome: str | Refusal = key
                if reason:
                    outcome = Refusal(key, Reason(reason), detail)
                    if key:
                        self._results[key] = outcome
                outcomes[Segment(audio, start, end)] = outcome
        return outcomes


def _arrays(batch: pa.RecordBatch, column: Column) -> Iterator[Array]:
    flat, offsets = column.unpack(batch.column(column.name))
    return (flat[first:end] for first, end in pairwise(offsets.tolist()))


def is_shard(name: str) -> bool:
    return bool(re.fullmatch(SHARD_NAME, name))


def shards_in(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.arrow") if is_shard(file.name)]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against a second run; the lock goes with the process, however it ends.

    Raises:
        UserError: another run is writing there, or the folder cannot be made.
    """
    file = folder / Store.WORK / "lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error

    def busy(pid: str) -> str:
        return f"{folder}: another run (process {pid}) is writing there; wait for it"

    with lock.locked(file, busy):
        yield


def _batches(file: Path, columns: Iterable[str] = ("start", "seconds")) -> list[pa.RecordBatch]:
    """Of a file that may be missing, of another version or, after a power cut, broken."""
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return []
    return batches if {*columns} <= set(schema.names) else []


def _has_rows(file: Path, rows: Iterable[Extracted], columns: Sequence[Column]) -> bool:
    """Whether it has these rows. Keys speak for their arrays, of which none is read or copied."""
    wanted = chunk_table([replace(row, arrays={}) for row in rows], columns)
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return False
    held, names = pa.Table.from_batches(batches, schema), [column.name for column in columns]
    return schema.equals(wanted.schema) and held.drop(names).equals(wanted.drop(names))


def _write(file: Path, rows: Iterable[Extracted], columns: Sequence[Column]) -> None:
    schema = chunk_table([], columns).schema
    with atomic_file(file) as target, pa.ipc.new_file(target, schema) as writer:
        for group in grouped(rows, BATCH_BYTES):
            writer.write_table(chunk_table(group, columns))


def _as_extracted(result: Result) -> Extracted:
    row = Extracted(Segment(""), key=result.key, arrays=result.arrays)
    if isinstance(result, Refusal):
        return replace(row, reason=result.reason, detail=result.detail)
    return replace(row, start=result.start, seconds=result.seconds)


def _rows(batch: pa.RecordBatch, columns: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)

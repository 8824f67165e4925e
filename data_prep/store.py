"""What earlier runs left in a folder of features, addressed by content.

Finished features are in the shards themselves. `.work/` beside them holds what a shard cannot:
chunks of a run that is under way (or was killed), what came of recordings that are not used,
and the stamps that tell without reading a recording that it has not changed. Every file here
appears complete or not at all, so whatever a killed run left is true; any of it may be deleted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.arrow_writer import BATCH_BYTES, grouped
from data_prep.extract import FACTS, Extracted, Result, chunk_table, hash_file
from data_prep.recordings import FileStamp, Root
from data_prep.utterance import Reason, Segment
from dimts.audio.cleaning import Cleaned
from dimts.audio.parquet_recordings import container
from dimts.features.feature_set import Steps, holds, read_batches
from dimts.features.manifest import SHARD_NAME
from dimts.features.schema import Column, Extractor
from dimts.storage.files import atomic_file

STAMPS, UNUSED = "stamps.arrow", "unused.arrow"
CLEANED_SPEECH = ("start", "seconds", *Cleaned._fields)
"""Where speech was found, and what was done to it."""
WORK_FILES = (STAMPS, UNUSED)
REASONS = frozenset[str](Reason)
"""Of this version; what a later one has refused for another is read again."""


def key_column(name: str, n_extractors: int) -> str:
    """Where the keys of an extractor's arrays stand in a file with those of several, or its own."""
    return f"{name}.key" if n_extractors > 1 else "key"


class Store:
    """Results by key, and the hash of each audio file that has not changed since it was read."""

    WORK = ".work"
    LOCK = f"{WORK}/lock"

    def __init__(self, folder: Path, extractors: Sequence[Extractor]) -> None:
        self.folder = folder
        self.extractors = extractors
        self.work = folder / self.WORK
        self.new_shards = self.work / "new"
        self._results: dict[str, Result] = {}
        self._hashes: dict[str, tuple[FileStamp, str]] = {}
        self.new_shards.mkdir(parents=True, exist_ok=True)
        for file in [*shards_in(folder), *shards_in(self.new_shards)]:
            for batch in _batches(file, CLEANED_SPEECH):
                self._read_features(batch)
        # Of a run that was killed: what its workers had finished. The last stamp of a file counts.
        chunks = sorted(self.work.glob("chunk-*.arrow"), key=lambda file: file.stat().st_mtime_ns)
        for file in [self.work / STAMPS, self.work / UNUSED, *chunks]:
            self.commit(file)

    @property
    def predates_cleaning(self) -> bool:
        """Whether its shards are of a version that did not clean, so that none can be kept."""
        shards = shards_in(self.folder)
        return any(_batches(f, ()) and not _batches(f, CLEANED_SPEECH) for f in shards)

    def sha256(self, root: Root, audio: str) -> str | None:
        """Hash of an audio file if it was read before; it is read again only if it may differ."""
        try:
            stamp = root.stamp(container(audio))
            known, sha256 = self._hashes.get(audio, (None, None))
            if known == stamp:
                return sha256
            # One in object storage is hashed when it is fetched.
            if known is None or known.size != stamp.size or not (path := root.real(audio)):
                return None
            self._hashes[audio] = hash_file(path)
        except OSError:  # extraction will meet it again and say so
            return None
        return self._hashes[audio][1]

    def result(self, key: str) -> Result | None:
        """What was made of the segment and the settings behind `key`."""
        return self._results.get(key)

    def commit(self, chunk: Path) -> dict[Segment, Result]:
        """Read a chunk of `extract_chunk`; it stays in `work`, so that a kill does not lose it."""
        results: dict[Segment, Result] = {}
        for batch in _batches(chunk, FACTS.names):
            self._read_features(batch)
            for audio, start, end, size, mtime, ctime, sha256, key, reason, detail, *_ in _rows(
                batch, FACTS.names
            ):
                if sha256:
                    self._hashes[audio] = FileStamp(size, mtime, ctime), sha256
                if reason and reason not in REASONS:
                    continue
                if reason:
                    result = Result(key, Reason(reason), detail)
                    if key:
                        self._results[key] = result
                    results[Segment(audio, start, end)] = result
                elif key in self._results:
                    results[Segment(audio, start, end)] = self._results[key]
        return results

    def settle(self, audios: Iterable[str], unused: Iterable[Result]) -> None:
        """Write down what the shards do not hold, so that the chunks of this run can go: stamps
        of the corpus's recordings, refusals, features of segments whose text does not fit them.
        """
        stamps = [
            Extracted(Segment(audio), Result(), *self._hashes[audio])
            for audio in audios
            if audio in self._hashes
        ]
        rest = [Extracted(Segment(""), result) for result in unused if result.key]
        columns = [column for extractor in self.extractors for column in extractor.columns]
        for file, rows in ((self.work / STAMPS, stamps), (self.work / UNUSED, rest)):
            if not _has_rows(file, rows, columns):
                schema = chunk_table([], columns).schema
                with atomic_file(file) as target, pa.ipc.new_file(target, schema) as writer:
                    for group in grouped(rows, BATCH_BYTES):
                        writer.write_table(chunk_table(group, columns))

    def sweep(self) -> None:
        """Remove what the shards and `settle` have made superfluous."""
        for file in self.work.glob("*chunk-*"):  # hidden while workers write them
            file.unlink(missing_ok=True)
        shutil.rmtree(self.new_shards)

    def _read_features(self, batch: pa.RecordBatch) -> None:
        for extractor in self.extractors:
            if not all(holds(batch.schema, column) for column in extractor.columns):
                continue  # of others, or of other settings
            keys = key_column(extractor.name, 2)
            keys = keys if keys in batch.schema.names else "key"
            arrays = {c.name: Steps([batch], c) for c in extractor.columns}
            facts = _rows(batch, (keys, *CLEANED_SPEECH))
            for (key, start, seconds, *cleaned), *row in zip(facts, *arrays.values(), strict=True):
                if key and all(map(len, row)):
                    steps = dict(zip(arrays, row, strict=True))
                    self._results[key] = Result(
                        key, None, "", start, seconds, Cleaned(*cleaned), steps
                    )


def is_shard(name: str) -> bool:
    return bool(re.fullmatch(SHARD_NAME, name))


def shards_in(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.arrow") if is_shard(file.name)]


def _batches(file: Path, columns: Sequence[str]) -> list[pa.RecordBatch]:
    """Of a file that may be missing, of another version or, after a power cut, broken."""
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return []
    return batches if set(columns) <= set(schema.names) else []


def _has_rows(file: Path, rows: Iterable[Extracted], columns: Sequence[Column]) -> bool:
    """Whether it has these rows. Keys speak for their arrays, of which none is read or copied."""
    bare = [row._replace(result=replace(row.result, arrays={})) for row in rows]
    wanted = chunk_table(bare, columns)
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return False
    held = pa.Table.from_batches(batches, schema)
    return schema.equals(wanted.schema) and held.select(FACTS.names).equals(
        wanted.select(FACTS.names)
    )


def _rows(batch: pa.RecordBatch, columns: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)

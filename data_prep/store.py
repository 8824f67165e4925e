"""What earlier runs left in a folder of features, addressed by content.

Finished features are in the shards themselves. `.work/` beside them holds what a shard cannot:
chunks of a run that is under way (or was killed), what came of recordings that are not used,
and the stamps that tell without reading a recording that it has not changed. Every file here
appears complete or not at all, so whatever a killed run left is true; any of it may be deleted.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.arrow_writer import BATCH_BYTES, atomic_file, grouped, write_atomic
from data_prep.extract import Extracted, chunk_table, hash_file
from data_prep.recordings import FileStamp, Root, stamp_of
from data_prep.utterance import Reason
from dimts.audio.mel import Float32Array
from dimts.core import lock
from dimts.core.errors import UserError
from dimts.features.feature_set import mel_frames, read_batches
from dimts.features.manifest import SHARD_NAME

STAMPS, UNUSED = "stamps.arrow", "unused.arrow"
WORK_FILES = (STAMPS, UNUSED)

STAMP_COLUMNS = ("audio", "size", "mtime_ns", "ctime_ns", "sha256")
FEATURE_COLUMNS = ("key", "start", "seconds")
REFUSAL_COLUMNS = ("audio", "key", "reason", "detail")


@dataclass(frozen=True, slots=True)
class Features:
    """Of one recording; `mel` is a view of a file, see `Extracted` for the rest."""

    key: str
    start: float
    seconds: float
    mel: Float32Array


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a recording has no features."""

    key: str
    reason: Reason
    detail: str


class Store:
    """Results by key, and the hash of each audio file that has not changed since it was read."""

    WORK = ".work"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / self.WORK
        self.new_shards = self.work / "new"
        self.parts = self.work / "parts"
        self._results: dict[str, Features | Refusal] = {}
        self._hashes: dict[tuple[str, FileStamp], str] = {}
        self._sizes: dict[str, set[int]] = {}
        self._n_chunks = 0
        self.new_shards.mkdir(parents=True, exist_ok=True)
        self.parts.mkdir(exist_ok=True)
        for batch in _batches(self._stamps_file, STAMP_COLUMNS):
            self._read_stamps(batch)
        for file in [*shards_in(folder), *shards_in(self.new_shards)]:
            for batch in _batches(file, FEATURE_COLUMNS):
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

    def result(self, key: str) -> Features | Refusal | None:
        """What was made of the recording and the settings behind `key`."""
        return self._results.get(key)

    def commit(self, chunk: bytes | Path) -> dict[str, str | Refusal]:
        """Keep a chunk of `extract_chunk`: from now on a kill does not lose it.

        Args:
            chunk: its bytes, or a file in `parts`.

        Returns:
            For each recording the key of its features, or the refusal (without a key if the
            recording must be tried again next time).
        """
        self._n_chunks += 1
        file = self.work / f"chunk-{self._n_chunks:06d}.arrow"
        if isinstance(chunk, Path):
            os.replace(chunk, file)
        else:
            write_atomic(file, chunk)
        return self._read_chunk(file)

    def settle(
        self, audios: Iterable[str], unused: Iterable[Features | Refusal], n_mels: int
    ) -> None:
        """Write down what the shards do not hold, so that the chunks of this run can go.

        Args:
            audios: recordings of the corpus; their stamps are kept.
            unused: refusals, and features of recordings whose text does not fit them.
            n_mels: width of their mels.
        """
        last = {audio: (stamp, sha256) for (audio, stamp), sha256 in self._hashes.items()}
        stamps = [Extracted(audio, *last[audio]) for audio in audios if audio in last]
        rest = [_as_extracted(result) for result in unused if result.key]
        for file, rows in ((self._stamps_file, stamps), (self._unused_file, rest)):
            if not _holds(file, rows, n_mels):
                _write(file, rows, n_mels)

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
        flat, offsets = mel_frames(batch.column("mel"))
        bounds = itertools.pairwise(offsets.tolist())
        for (key, start, seconds), (first, end) in zip(
            _rows(batch, FEATURE_COLUMNS), bounds, strict=True
        ):
            if key and end > first:
                self._results[key] = Features(key, start, seconds, flat[first:end])

    def _read_chunk(self, file: Path) -> dict[str, str | Refusal]:
        outcomes: dict[str, str | Refusal] = {}
        for batch in _batches(file, (*STAMP_COLUMNS, *FEATURE_COLUMNS, *REFUSAL_COLUMNS)):
            self._read_stamps(batch)
            self._read_features(batch)
            for audio, key, reason, detail in _rows(batch, REFUSAL_COLUMNS):
                outcomes[audio] = key
                if reason:
                    outcomes[audio] = refusal = Refusal(key, Reason(reason), detail)
                    if key:
                        self._results[key] = refusal
        return outcomes


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


def _batches(file: Path, columns: Iterable[str]) -> list[pa.RecordBatch]:
    """Of a file that may be missing, of another version or, after a power cut, broken."""
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return []
    return batches if {*columns, "mel"} <= set(schema.names) else []


def _holds(file: Path, rows: Iterable[Extracted], n_mels: int) -> bool:
    """Whether it has these rows. Their keys speak for the mels, of which none is read or copied."""
    wanted = chunk_table([replace(row, mel=row.mel[:0]) for row in rows], n_mels)
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowException):
        return False
    held = pa.Table.from_batches(batches, schema)
    return schema.equals(wanted.schema) and held.drop(["mel"]).equals(wanted.drop(["mel"]))


def _write(file: Path, rows: Iterable[Extracted], n_mels: int) -> None:
    with (
        atomic_file(file) as target,
        pa.ipc.new_file(target, chunk_table([], n_mels).schema) as writer,
    ):
        for group in grouped(rows, BATCH_BYTES):
            writer.write_table(chunk_table(group, n_mels))


def _as_extracted(result: Features | Refusal) -> Extracted:
    if isinstance(result, Refusal):
        return Extracted("", key=result.key, reason=result.reason, detail=result.detail)
    return Extracted("", key=result.key, start=result.start, seconds=result.seconds, mel=result.mel)


def _rows(batch: pa.RecordBatch, columns: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)

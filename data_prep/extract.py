"""A part of a recording -> arrays and facts, or the reason why not. Plain functions, no Ray."""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.arrow_writer import atomic_file, to_ipc_bytes
from data_prep.recordings import Fetched, FileStamp, Opened, Root, at_hand, opened
from data_prep.utterance import Reason, Segment
from dimts.audio.files import (
    MAX_RECORDING_SECONDS,
    MAX_SAMPLE_RATE,
    AudioError,
    read_audio,
)
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.core.config import fingerprint
from dimts.core.untrusted import NotAFile, open_regular
from dimts.features.schema import Array, Arrays, Column, Extract, Extractor

MAX_BYTES_A_SECOND = MAX_SAMPLE_RATE * 32
"""Eight channels of 32 bits at the highest rate. Only reading a file gives its hash, so one that
cannot be short enough is not read."""

_REASONS = {
    "empty": Reason.EMPTY_AUDIO,
    "too_long": Reason.TOO_LONG,
    "not_finite": Reason.NOT_FINITE,
    "channels_cancel": Reason.CHANNELS_CANCEL,
    "silent": Reason.SILENT,
    "outside": Reason.OUTSIDE_RECORDING,
}


@dataclass(frozen=True)
class ExtractSettings:
    """Everything beside the recording itself that its features depend on.

    Attributes:
        extractor: what makes the arrays.
        trim: None: segments are speech from end to end.
        min_seconds: of speech.
        max_seconds: of a segment.
    """

    extractor: Extractor
    trim: TrimConfig | None
    min_seconds: float
    max_seconds: float

    def max_bytes(self, segment: Segment) -> float:
        """Of its recording; a larger one is too long whatever its format."""
        seconds = self.max_seconds if segment.is_whole else MAX_RECORDING_SECONDS
        return seconds * MAX_BYTES_A_SECOND

    def key(self, sha256: str, segment: Segment) -> str:
        """Address of what these settings make of a segment of the audio file with this hash."""
        settings = {
            self.extractor.name: self.extractor.settings.model_dump(mode="json"),
            "trim": self.trim and self.trim.model_dump(mode="json"),
            "min_seconds": self.min_seconds,
            "max_seconds": self.max_seconds,
        }
        part = [] if segment.is_whole else [segment.start, segment.end]
        return fingerprint(self.extractor.version, settings, sha256, *part)


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of one segment, or why there are none.

    Attributes:
        segment: of a file relative to the corpus folder.
        stamp: of the file when it was read; None if that failed.
        sha256: of the file's bytes; empty if they could not be read.
        key: `ExtractSettings.key`; empty if the result must not be used again.
        reason: why it is refused, or None.
        detail: what exactly is wrong.
        start: seconds into the recording at which the speech begins.
        seconds: length of the speech.
        arrays: steps of each column, see `Column.steps`; none if refused.
    """

    segment: Segment
    stamp: FileStamp | None = None
    sha256: str = ""
    key: str = ""
    reason: Reason | None = None
    detail: str = ""
    start: float = 0.0
    seconds: float = 0.0
    arrays: Arrays = field(default_factory=dict)


def extract(
    root: Path | Fetched, segments: Sequence[Segment], settings: ExtractSettings
) -> list[Extracted]:
    """Hash, decode, trim and analyse segments of one recording.

    Never raises for what a file can hold.
    """
    audio = segments[0].audio
    try:
        with opened(root, audio) as recording:
            return list(_extract_open(recording, segments, settings))
    except OSError as error:
        reason, detail = unusable_file(error), f"{audio}: {error.strerror or error}"
        return [Extracted(segment, reason=reason, detail=detail) for segment in segments]


def unusable_file(error: OSError) -> Reason:
    """Which reason it is that a file could not be opened or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Reason.MISSING_FILE
    return Reason.NOT_A_FILE if isinstance(error, NotAFile) else Reason.NOT_READABLE


def _extract_open(
    recording: Opened, segments: Iterable[Segment], settings: ExtractSettings
) -> Iterator[Extracted]:
    """What is hashed is what is decoded: the file is opened once."""
    (descriptor, stamp), sha256 = recording, ""
    for segment in segments:
        if stamp.size > (max_bytes := settings.max_bytes(segment)):
            most = max_bytes / MAX_BYTES_A_SECOND
            detail = f"{stamp.size} bytes, more than {most:g} s can take"
            yield Extracted(segment, stamp, reason=Reason.TOO_LONG, detail=detail)
            continue
        sha256 = sha256 or _hash(descriptor)
        key = settings.key(sha256, segment)
        try:
            start, seconds, arrays = _features(descriptor, segment, settings)
        except AudioError as error:
            reason = _REASONS.get(error.reason, Reason.BROKEN_AUDIO)
            yield Extracted(segment, stamp, sha256, key, reason, error.detail)
        except Exception as error:  # one bad row costs one row; no key, so that it is tried again
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield Extracted(segment, stamp, sha256, "", Reason.EXTRACTION_FAILED, detail)
        else:
            if arrays:
                yield Extracted(segment, stamp, sha256, key, None, "", start, seconds, arrays)
                continue
            detail = f"{seconds:.2f} s of speech, at least {settings.min_seconds:g} s"
            yield Extracted(segment, stamp, sha256, key, Reason.TOO_SHORT, detail)


def extract_chunk(
    root: Root, segments: Sequence[Segment], settings: ExtractSettings, folder: Path | None
) -> bytes | Path:
    """Extract several segments into one Arrow file, see `chunk_table`.

    Args:
        root: the corpus.
        segments: of which to make features.
        settings: how.
        folder: where the file appears, complete or not at all; None: its bytes are returned.

    Raises:
        UserError: object storage, which recordings are in, cannot be reached, or something that
            the extractor needs is missing.
    """
    from dimts.core.threads import one_thread  # brings torch, which the settings above do not need

    audios = list(dict.fromkeys(segment.audio for segment in segments))
    with (
        one_thread(),
        at_hand(root, audios, max(map(settings.max_bytes, segments))) as recordings,
    ):
        _loaded(settings.extractor)
        of_one = itertools.groupby(segments, key=lambda segment: segment.audio)
        results = [r for _, parts in of_one for r in extract(recordings, list(parts), settings)]
    table = chunk_table(results, settings.extractor.columns)
    if folder is None:
        return to_ipc_bytes(table)
    path = folder / f"{uuid.uuid4().hex}.arrow"
    with atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


@lru_cache(maxsize=1)
def _loaded(extractor: Extractor) -> Extract:
    """The extractor of this process; a model is loaded once."""
    return extractor.open()


def chunk_table(results: Sequence[Extracted], columns: Iterable[Column]) -> pa.Table:
    """The results as rows; a refused one has arrays of no length."""
    stamps = [result.stamp or FileStamp(-1, -1, -1) for result in results]
    facts: dict[str, Any] = {
        "audio": pa.array([result.segment.audio for result in results], pa.string()),
        "from": pa.array([result.segment.start for result in results], pa.float64()),
        "to": pa.array([result.segment.end for result in results], pa.float64()),
        "size": pa.array([stamp.size for stamp in stamps], pa.int64()),
        "mtime_ns": pa.array([stamp.mtime_ns for stamp in stamps], pa.int64()),
        "ctime_ns": pa.array([stamp.ctime_ns for stamp in stamps], pa.int64()),
        "sha256": pa.array([result.sha256 for result in results], pa.string()),
        "key": pa.array([result.key for result in results], pa.string()),
        "reason": pa.array([result.reason for result in results], pa.string()),
        "detail": pa.array([result.detail for result in results], pa.string()),
        "start": pa.array([result.start for result in results], pa.float64()),
        "seconds": pa.array([result.seconds for result in results], pa.float64()),
    }
    arrays = {column.name: pack_column(column, results) for column in columns}
    return pa.table(facts | arrays)


def pack_column(column: Column, rows: Sequence[Any]) -> pa.LargeListArray:
    """One column of rows that have `arrays`."""
    return column.pack([row.arrays.get(column.name, ()) for row in rows])


def hash_file(path: Path) -> tuple[FileStamp, str]:
    """Stamp and SHA-256 of a file's bytes; the stamp is older than the bytes, never newer.

    Raises:
        OSError: it is no regular file or cannot be read.
    """
    with open_regular(path) as descriptor:
        return FileStamp.of(os.fstat(descriptor)), _hash(descriptor)


def _hash(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _features(
    descriptor: int, segment: Segment, settings: ExtractSettings
) -> tuple[float, float, dict[str, Array]]:
    """Seconds at which the speech begins, seconds of speech, arrays; none if it is too short."""
    extractor, trim = settings.extractor, settings.trim
    rate = extractor.sample_rate
    wave = read_audio(descriptor, rate, settings.max_seconds, segment.start, segment.end)
    start, end = trim_silence(wave, rate, trim) if trim else (0, len(wave))
    begins, seconds = segment.start + start / rate, (end - start) / rate
    if seconds < settings.min_seconds:
        return begins, seconds, {}
    arrays = _loaded(extractor)(wave[start:end], rate)
    return begins, seconds, {c.name: c.steps(arrays[c.name]) for c in extractor.columns}

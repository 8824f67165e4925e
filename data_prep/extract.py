"""A part of a recording -> arrays and facts, or the reason why not. Plain functions, no Ray."""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from data_prep.recordings import FileStamp, Open, Root, at_hand
from data_prep.utterance import Reason, Segment
from dimts.audio.cleaning import Cleaned, CleaningConfig, clean
from dimts.audio.decoded import MAX_RECORDING_SECONDS, MAX_SAMPLE_RATE, AudioError
from dimts.audio.files import decode_audio, resampled
from dimts.audio.parquet_recordings import split_member
from dimts.audio.trim import TrimConfig
from dimts.core.config import fingerprint
from dimts.core.untrusted import NotAFile, open_regular
from dimts.features.schema import Arrays, Column, Extract, Extractor
from dimts.storage.files import atomic_file

MAX_BYTES_A_SECOND = MAX_SAMPLE_RATE * 32
"""Eight channels of 32 bits at the highest rate. Only reading a file gives its hash, so one that
cannot be short enough is not read."""

CLEANING_VERSION = 1
"""To be raised when the same settings would clean a recording otherwise."""

_REASONS = {
    "empty": Reason.EMPTY_AUDIO,
    "too_long": Reason.TOO_LONG,
    "not_finite": Reason.NOT_FINITE,
    "channels_cancel": Reason.CHANNELS_CANCEL,
    "silent": Reason.SILENT,
    "outside": Reason.OUTSIDE_RECORDING,
    "needs_pyav": Reason.NEEDS_PYAV,
}

FACTS = pa.schema(
    [("audio", pa.string()), ("from", pa.float64()), ("to", pa.float64())]
    + [("size", pa.int64()), ("mtime_ns", pa.int64()), ("ctime_ns", pa.int64())]
    + [(name, pa.string()) for name in ("sha256", "key", "reason", "detail")]
    + [("start", pa.float64()), ("seconds", pa.float64())]
    + [(name, pa.float64()) for name in Cleaned._fields]
)
"""Columns of a chunk beside its arrays: segment, stamp and hash of its file, result."""


@dataclass(frozen=True)
class ExtractSettings:
    """Everything beside the recording itself that its features depend on."""

    extractor: Extractor
    trim: TrimConfig
    min_seconds: float  # of speech
    max_seconds: float  # of a segment
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)

    def max_bytes(self, segment: Segment) -> float:
        """Of its recording; a larger one is too long whatever its format."""
        seconds = self.max_seconds if segment.is_whole else MAX_RECORDING_SECONDS
        return seconds * MAX_BYTES_A_SECOND

    def key(self, sha256: str, segment: Segment) -> str:
        """Address of what these settings make of a segment of the audio file with this hash."""
        settings = {
            self.extractor.name: self.extractor.settings.model_dump(mode="json"),
            "trim": self.trim.model_dump(mode="json"),
            "cleaning": [CLEANING_VERSION, self.cleaning.model_dump(mode="json")],
            "min_seconds": self.min_seconds,
            "max_seconds": self.max_seconds,
        }
        part = [] if segment.is_whole else [segment.start, segment.end]
        return fingerprint(self.extractor.version, settings, sha256, *part)


@dataclass(frozen=True, slots=True)
class Result:
    """Features of a segment by one extractor, or why there are none."""

    key: str = ""  # `ExtractSettings.key`; empty if the result must not be used again
    reason: Reason | None = None  # why the segment is refused
    detail: str = ""
    start: float = 0.0  # seconds into the recording at which the speech begins
    seconds: float = 0.0  # from there to its end, pauses included
    cleaned: Cleaned = field(default_factory=Cleaned)
    arrays: Arrays = field(default_factory=dict)  # steps, see `Column.steps`; none if refused


class Extracted(NamedTuple):
    """A segment, its result, and of its file the stamp and hash, as far as it could be read."""

    segment: Segment
    result: Result
    stamp: FileStamp = FileStamp(-1, -1, -1)
    sha256: str = ""

    @property
    def arrays(self) -> Arrays:
        return self.result.arrays


def extract(
    open_recording: Open, segments: Sequence[Segment], settings: ExtractSettings
) -> list[Extracted]:
    """Hash, decode, trim and analyse segments of one recording.

    The file is opened once: what is hashed is what is decoded. Never raises for what a file can
    hold.
    """
    audio, sha256 = segments[0].audio, ""
    extracted = []
    try:
        with open_recording(audio) as (descriptor, stamp):
            for segment in segments:
                size = os.fstat(descriptor).st_size if split_member(audio) else stamp.size
                if size > (max_bytes := settings.max_bytes(segment)):
                    most = max_bytes / MAX_BYTES_A_SECOND
                    detail = f"{size} bytes, more than {most:g} s can take"
                    result = Result(reason=Reason.TOO_LONG, detail=detail)
                else:
                    sha256 = sha256 or _hash(descriptor)
                    result = _result(descriptor, segment, settings, settings.key(sha256, segment))
                extracted.append(Extracted(segment, result, stamp, sha256))
    except OSError as error:
        refused = Result(reason=_reason(error), detail=f"{audio}: {error.strerror or error}")
        return [Extracted(segment, refused) for segment in segments]
    return extracted


def _reason(error: OSError) -> Reason:
    """Which reason it is that a file could not be opened or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Reason.MISSING_FILE
    return Reason.NOT_A_FILE if isinstance(error, NotAFile) else Reason.NOT_READABLE


def _result(descriptor: int, segment: Segment, settings: ExtractSettings, key: str) -> Result:
    extractor, trim = settings.extractor, settings.trim
    rate, longest = extractor.sample_rate, settings.max_seconds
    try:
        decoded = decode_audio(descriptor, longest, segment.start, segment.end)
        wave = resampled(decoded.wave, decoded.sample_rate, rate)
        speech, (start, end), cleaned = clean(wave, rate, trim, settings.cleaning)
        seconds = (end - start) / rate
        if seconds < settings.min_seconds:
            detail = f"{seconds:.2f} s of speech, at least {settings.min_seconds:g} s"
            return Result(key, Reason.TOO_SHORT, detail)
        made = _loaded(extractor)(speech, rate)
        arrays = {c.name: c.steps(made[c.name]) for c in extractor.columns}
    except AudioError as error:
        reason = _REASONS.get(error.reason, Reason.BROKEN_AUDIO)
        # Without a key it is tried again next time: PyAV may be there then.
        return Result("" if reason is Reason.NEEDS_PYAV else key, reason, error.detail)
    except Exception as error:  # one bad row costs one row; no key, so that it is tried again
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(reason=Reason.EXTRACTION_FAILED, detail=detail)
    cleaned = cleaned._replace(offset=decoded.offset)
    return Result(key, None, "", segment.start + start / rate, seconds, cleaned, arrays)


def extract_chunk(
    root: Root, segments: Sequence[Segment], settings: ExtractSettings, folder: Path
) -> Path:
    """Extract several segments into one Arrow file of `folder`, see `chunk_table`.

    Raises:
        UserError: object storage, which recordings are in, cannot be reached, or something that
            the extractor needs is missing.
    """
    from dimts.core.threads import one_thread  # brings torch, which the settings above do not need

    audios = list(dict.fromkeys(segment.audio for segment in segments))
    with (
        one_thread(),
        at_hand(root, audios, max(map(settings.max_bytes, segments))) as open_recording,
    ):
        _loaded(settings.extractor)
        of_one = itertools.groupby(segments, key=lambda segment: segment.audio)
        results = [r for _, parts in of_one for r in extract(open_recording, list(parts), settings)]
    path = chunk_file(folder)
    table = chunk_table(results, settings.extractor.columns)
    with atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def chunk_file(folder: Path) -> Path:
    """A new name for what workers have made at the same time."""
    return folder / f"chunk-{uuid.uuid4().hex}.arrow"


@lru_cache(maxsize=1)
def _loaded(extractor: Extractor) -> Extract:
    """The extractor of this process; a model is loaded once."""
    return extractor.open()


def chunk_table(rows: Sequence[Extracted], columns: Iterable[Column]) -> pa.Table:
    """One row for each, `FACTS` and a column for each array; a refused one has no steps."""
    facts = [
        (*segment, *stamp, sha256, r.key, r.reason, r.detail, r.start, r.seconds, *r.cleaned)
        for segment, r, stamp, sha256 in rows
    ]
    table = pa.Table.from_pylist([dict(zip(FACTS.names, row, strict=True)) for row in facts], FACTS)
    for column in columns:
        packed = column.pack([row.arrays.get(column.name, ()) for row in rows])
        table = table.append_column(column.name, packed)
    return table


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

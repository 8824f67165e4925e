"""One recording -> mel and facts, or the reason why not. Plain functions, no Ray."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.arrow_writer import atomic_file, mel_column, to_ipc_bytes
from data_prep.recordings import Fetched, FileStamp, Opened, Root, at_hand, opened
from data_prep.utterance import Reason
from dimts.audio.files import MAX_SAMPLE_RATE, AudioError, read_open_audio
from dimts.audio.mel import Float32Array, MelConfig, log_mel
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.core.config import Config, fingerprint
from dimts.core.regular_file import NotAFile, open_regular

EXTRACTOR_VERSION = 3
"""To be raised when the same recording and settings would give other features."""

MAX_BYTES_A_SECOND = MAX_SAMPLE_RATE * 32
"""Eight channels of 32 bits at the highest rate. Only reading a file gives its hash, so one that
cannot be short enough is not read."""

_REASONS = {
    "empty": Reason.EMPTY_AUDIO,
    "too_long": Reason.TOO_LONG,
    "not_finite": Reason.NOT_FINITE,
    "channels_cancel": Reason.CHANNELS_CANCEL,
    "silent": Reason.SILENT,
}


class ExtractSettings(Config):
    """Everything beside the recording itself that its features depend on."""

    mel: MelConfig
    trim: TrimConfig
    min_seconds: float
    max_seconds: float

    @property
    def most_bytes(self) -> float:
        """Of a recording; a larger one is too long whatever its format."""
        return self.max_seconds * MAX_BYTES_A_SECOND

    def key(self, sha256: str) -> str:
        """Address of what these settings make of the audio file with this hash."""
        return fingerprint(EXTRACTOR_VERSION, self, sha256)


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of one recording, or why there are none.

    Attributes:
        audio: the file, relative to the corpus folder.
        stamp: of the file when it was read; None if that failed.
        sha256: of the file's bytes; empty if they could not be read.
        key: `ExtractSettings.key`; empty if the result must not be used again.
        reason: why it is refused, or None.
        detail: what exactly is wrong.
        start: seconds of silence cut off before the speech.
        seconds: length of the speech.
        mel: float32 [T, n_mels]; no frames if refused.
    """

    audio: str
    stamp: FileStamp | None = None
    sha256: str = ""
    key: str = ""
    reason: Reason | None = None
    detail: str = ""
    start: float = 0.0
    seconds: float = 0.0
    mel: Float32Array = field(default_factory=lambda: np.empty((0, 0), np.float32))


def extract(root: Path | Fetched, audio: str, settings: ExtractSettings) -> Extracted:
    """Hash, decode, trim and analyse one recording. Never raises for what a file can hold."""
    try:
        with opened(root, audio) as recording:
            return _extract_open(recording, audio, settings)
    except OSError as error:
        reason = unusable_file(error)
        return Extracted(audio, reason=reason, detail=f"{audio}: {error.strerror or error}")


def unusable_file(error: OSError) -> Reason:
    """Which reason it is that a file could not be opened or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Reason.MISSING_FILE
    return Reason.NOT_A_FILE if isinstance(error, NotAFile) else Reason.NOT_READABLE


def _extract_open(recording: Opened, audio: str, settings: ExtractSettings) -> Extracted:
    """What is hashed is what is decoded: the file is opened once."""
    (descriptor, stamp), path = recording, Path(audio)
    if stamp.size > settings.most_bytes:
        detail = f"{stamp.size} bytes, more than {settings.max_seconds:g} s can take"
        return Extracted(audio, stamp, reason=Reason.TOO_LONG, detail=detail)
    sha256 = _hash(descriptor)
    key = settings.key(sha256)
    try:
        start, seconds, mel = _features(descriptor, path, settings)
    except AudioError as error:
        reason = _REASONS.get(error.reason, Reason.BROKEN_AUDIO)
        # The path is known, and the number of a file descriptor changes from run to run.
        detail = re.sub(r"Error opening \d+: ", "", error.detail.removeprefix(f"{path}: "))
        return Extracted(audio, stamp, sha256, key, reason, detail)
    except Exception as error:  # one bad row costs one row; no key, so that it is tried again
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Extracted(audio, stamp, sha256, "", Reason.EXTRACTION_FAILED, detail)
    if seconds < settings.min_seconds:
        detail = f"{seconds:.2f} s of speech, at least {settings.min_seconds:g} s"
        return Extracted(audio, stamp, sha256, key, Reason.TOO_SHORT, detail)
    return Extracted(audio, stamp, sha256, key, None, "", start, seconds, mel)


def extract_chunk(root: Root, audios: Sequence[str], settings: ExtractSettings) -> bytes:
    """Extract several recordings into one Arrow file, see `chunk_table`.

    Raises:
        StorageError: object storage, which they are in, cannot be reached.
    """
    return to_ipc_bytes(_extract_table(root, audios, settings))


def extract_to_file(
    root: Root, audios: Sequence[str], settings: ExtractSettings, folder: Path
) -> Path:
    """`extract_chunk` into a new file of `folder`, which appears complete or not at all."""
    path = folder / f"{uuid.uuid4().hex}.arrow"
    table = _extract_table(root, audios, settings)
    with atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def _extract_table(root: Root, audios: Sequence[str], settings: ExtractSettings) -> pa.Table:
    from dimts.core.threads import one_thread  # brings torch, which the settings above do not need

    with one_thread(), at_hand(root, audios, settings.most_bytes) as recordings:
        results = [extract(recordings, audio, settings) for audio in audios]
    return chunk_table(results, settings.mel.n_mels)


def chunk_table(results: Sequence[Extracted], n_mels: int) -> pa.Table:
    """The results as rows; a refused one has an empty mel."""
    stamps = [result.stamp or FileStamp(-1, -1, -1) for result in results]
    columns: dict[str, Any] = {
        "audio": pa.array([result.audio for result in results], pa.string()),
        "size": pa.array([stamp.size for stamp in stamps], pa.int64()),
        "mtime_ns": pa.array([stamp.mtime_ns for stamp in stamps], pa.int64()),
        "ctime_ns": pa.array([stamp.ctime_ns for stamp in stamps], pa.int64()),
        "sha256": pa.array([result.sha256 for result in results], pa.string()),
        "key": pa.array([result.key for result in results], pa.string()),
        "reason": pa.array([result.reason for result in results], pa.string()),
        "detail": pa.array([result.detail for result in results], pa.string()),
        "start": pa.array([result.start for result in results], pa.float64()),
        "seconds": pa.array([result.seconds for result in results], pa.float64()),
        "mel": mel_column([result.mel for result in results], n_mels),
    }
    return pa.table(columns)


def hash_file(path: Path) -> tuple[FileStamp, str]:
    """Stamp and SHA-256 of a file's bytes; the stamp is older than the bytes, never newer.

    Raises:
        OSError: it is no regular file or cannot be read.
    """
    with open_regular(path) as descriptor:
        return FileStamp.of(os.fstat(descriptor)), _hash(descriptor)


def _hash(descriptor: int) -> str:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _features(
    descriptor: int, path: Path, settings: ExtractSettings
) -> tuple[float, float, Float32Array]:
    """Seconds cut off at the start, seconds of speech, mel [T, n_mels]."""
    rate = settings.mel.sample_rate
    wave = read_open_audio(descriptor, path, rate, settings.max_seconds)
    start, end = trim_silence(wave, rate, settings.trim)
    if (end - start) / rate < settings.min_seconds:
        return start / rate, (end - start) / rate, np.empty((0, settings.mel.n_mels), np.float32)
    return start / rate, (end - start) / rate, log_mel(wave[start:end], settings.mel)

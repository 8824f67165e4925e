"""LJSpeech: `metadata.csv` with ``file|text`` or ``file|text|normalised text``, and `wavs/`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.config import CorpusConfig
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.errors import UserError

METADATA = "metadata.csv"
AUDIO_FOLDER = "wavs"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
ASSUMED_SUFFIXES = (".wav", ".flac")

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class _RowError(Exception):
    """This row cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def read_ljspeech(corpus: CorpusConfig, language: str) -> Iterator[Utterance | Rejected]:
    """The rows of `metadata.csv` in their order; a bad row costs that row only.

    A row has two or three columns, separated by ``|`` without quotes; of the texts the third,
    the normalised one, is preferred. The file is named with or without its suffix and lies in
    `wavs/`. Blank lines are no rows. Of rows with the same id, the first stays.

    Raises:
        UserError: there is no such corpus.
    """
    data = _metadata(corpus.path)
    root = Path(os.path.realpath(corpus.path))
    seen: dict[str, int] = {}
    for row, line in enumerate(data.removeprefix(_UTF8_BOM).splitlines(), start=1):
        if not line.strip():
            continue
        utterance_id = ""
        try:
            name, text = _columns(line)
            utterance_id = _id(name)
            if utterance_id in seen:
                raise _RowError(Reason.DUPLICATE_ID, f"stands in row {seen[utterance_id]} already")
            audio = _find_audio(root, name)
            if not text:
                raise _RowError(Reason.EMPTY_TEXT, "the text column is empty")
        except _RowError as error:
            readable = utterance_id or _first_column(line)
            yield Rejected(row, readable, error.reason, error.detail)
        else:
            seen[utterance_id] = row
            yield Utterance(utterance_id, audio, text, corpus.speaker, language, row)


def _metadata(folder: Path) -> bytes:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such corpus folder; set corpus.path")
    metadata = folder / METADATA
    try:
        data = metadata.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{metadata}: no such file; an LJSpeech corpus has {METADATA} and {AUDIO_FOLDER}/"
        ) from None
    except OSError as error:
        raise UserError(f"{metadata}: cannot be read: {error.strerror}") from error
    if data.startswith(_UTF16_BOMS):
        raise UserError(f"{metadata}: is UTF-16; save it as UTF-8")
    return data


def _columns(line: bytes) -> tuple[str, str]:
    """The name of the file and the text."""
    try:
        columns = [column.strip() for column in line.decode("utf-8").split("|")]
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8"
        raise _RowError(Reason.UNDECODABLE_LINE, detail) from None
    if len(columns) not in (2, 3):
        raise _RowError(
            Reason.WRONG_COLUMN_COUNT, f"{len(columns)} columns, not 2 or 3 separated by |"
        )
    if not columns[0]:
        raise _RowError(Reason.EMPTY_ID, "the first column is empty")
    return columns[0], next((text for text in reversed(columns[1:]) if text), "")


def _first_column(line: bytes) -> str:
    return line.split(b"|")[0].decode("utf-8", errors="replace").strip()


def _id(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in AUDIO_SUFFIXES else str(path)


def _find_audio(root: Path, name: str) -> Path:
    """The audio file, relative to `root`; it must exist and really lie inside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _RowError(Reason.OUTSIDE_CORPUS, f"{name} leads out of the corpus folder")
    named = path.suffix.lower() in AUDIO_SUFFIXES
    candidates = [name] if named else [name + suffix for suffix in ASSUMED_SUFFIXES]
    for candidate in candidates:
        audio = Path(AUDIO_FOLDER, candidate)
        if _is_file_inside(root, audio):
            return audio
    raise _RowError(Reason.MISSING_FILE, f"{AUDIO_FOLDER}/{candidates[0]} does not exist")


def _is_file_inside(root: Path, audio: Path) -> bool:
    try:
        real = Path(os.path.realpath(root / audio))
        mode = real.stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False
    if not real.is_relative_to(root):
        raise _RowError(Reason.OUTSIDE_CORPUS, f"{audio} is a link to {real}")
    return stat.S_ISREG(mode)

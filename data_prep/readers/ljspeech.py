"""LJSpeech: `metadata.csv` with ``file|text`` or ``file|text|normalised text``, and `wavs/`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.recordings import RemoteCorpus, Root, at_hand, root_of
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.core.untrusted import DRIVES_A_TERMINAL, NotAFile
from dimts.features.config import CorpusConfig
from dimts.storage.paths import AnyPath

METADATA = "metadata.csv"
AUDIO_FOLDER = "wavs"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

MAX_BYTES = 1 << 30
"""Of `metadata.csv`: ten million rows."""
MAX_LINE_BYTES = 1 << 20
"""Of a row: more than an hour of speech."""
MAX_NOTE = 1000
"""Characters kept of what a refused row says."""


class _RowError(Exception):
    """This row cannot be used; its arguments are reason and detail."""


def read_ljspeech(corpus: CorpusConfig, language: str) -> Iterator[Utterance | Rejected]:
    """The rows of `metadata.csv` in their order; a bad row costs that row only.

    A row has two or three columns, separated by ``|`` without quotes; of the texts the third,
    the normalised one, is preferred. The file is named with or without its suffix and lies in
    `wavs/`. Blank lines are no rows. Of rows with the same id, the first stays.

    Raises:
        UserError: there is no such corpus.
    """
    root = root_of(corpus.path)
    if isinstance(root, Path):
        root = Path(os.path.realpath(root))
    seen: dict[str, int] = {}
    for row, line in enumerate(_lines(corpus.path, root), start=1):
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
            readable = utterance_id or line.split(b"|")[0].decode(errors="replace").strip()
            reason, detail = error.args
            yield Rejected(row, readable[:MAX_NOTE], reason, detail[:MAX_NOTE])
        else:
            seen[utterance_id] = row
            yield Utterance(utterance_id, audio, text, corpus.speaker, language, row)


def _lines(place: AnyPath, root: Root) -> Iterator[bytes]:
    """Lines of the table, of one that is too long its beginning; ends are those of any system."""
    table = place / METADATA
    if isinstance(root, Path):
        if not root.is_dir():
            raise UserError(f"{place}: no such corpus folder; set corpus.path")
        if not (real := Path(os.path.realpath(root / METADATA))).is_relative_to(root):
            raise UserError(
                f"{table}: is a link to {real}, out of the corpus folder; copy it there"
            )
    try:
        with (
            at_hand(root, [METADATA], MAX_BYTES) as open_table,
            open_table(METADATA) as (descriptor, stamp),
        ):
            if stamp.size > MAX_BYTES:
                raise UserError(
                    f"{table}: has {stamp.size} bytes, at most {MAX_BYTES}; split the corpus"
                )
            _check_encoding(table, descriptor)
            # Latin-1 keeps each byte; text mode knows all ends of lines, and so whole rows fail.
            with open(descriptor, encoding="latin-1", closefd=False) as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    yield line.encode("latin-1")
                    while len(line) > MAX_LINE_BYTES and not line.endswith("\n"):
                        line = file.readline(MAX_LINE_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"{table}: no such file; an LJSpeech corpus has {METADATA} and {AUDIO_FOLDER}/"
        ) from None
    except NotAFile as error:
        raise UserError(f"{table}: {error.strerror}") from None
    except OSError as error:
        raise UserError(f"{table}: cannot be read: {error.strerror}") from error


def _check_encoding(metadata: AnyPath, descriptor: int) -> None:
    """Refuse UTF-16; leaves the position behind a byte-order mark."""
    start = os.read(descriptor, 4)
    if start.startswith(_UTF16_BOMS) or b"\0\0" in (start[::2], start[1::2]):
        raise UserError(f"{metadata}: is UTF-16; save it as UTF-8")
    os.lseek(descriptor, len(_UTF8_BOM) if start.startswith(_UTF8_BOM) else 0, os.SEEK_SET)


def _columns(line: bytes) -> tuple[str, str]:
    """The name of the file and the text."""
    if len(line.rstrip(b"\n")) > MAX_LINE_BYTES:
        raise _RowError(Reason.UNDECODABLE_LINE, f"longer than {MAX_LINE_BYTES} bytes")
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
    if control := DRIVES_A_TERMINAL.search(columns[0]):
        detail = f"U+{ord(control[0]):04X} in the name of the file"
        raise _RowError(Reason.UNPRINTABLE_ID, detail)
    return columns[0], next((text for text in reversed(columns[1:]) if text), "")


def _id(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in AUDIO_SUFFIXES else str(path)


def _find_audio(root: Root, name: str) -> Path:
    """The audio file, relative to `root`; it must exist and really lie inside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _RowError(Reason.OUTSIDE_CORPUS, f"{name} leads out of the corpus folder")
    named = path.suffix.lower() in AUDIO_SUFFIXES
    candidates = [name] if named else [name + suffix for suffix in AUDIO_SUFFIXES]
    problems: list[_RowError] = []
    for candidate in candidates:
        audio = Path(AUDIO_FOLDER, candidate)
        try:
            _check_audio(root, audio)
            return audio
        except _RowError as problem:
            problems.append(problem)
    raise min(problems, key=lambda problem: problem.args[0] == Reason.MISSING_FILE)


def _check_audio(root: Root, audio: Path) -> None:
    """Refuse what cannot be used as a recording, as far as can be told without opening it."""
    missing = _RowError(Reason.MISSING_FILE, f"{audio} does not exist")
    if isinstance(root, RemoteCorpus):
        if audio.as_posix() not in root.stamps:
            raise missing
        return
    real = Path(os.path.realpath(root / audio))
    if not real.is_relative_to(root):
        raise _RowError(Reason.OUTSIDE_CORPUS, f"{audio} is a link to {real}")
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _RowError(Reason.NOT_A_FILE, f"{audio} is a link in a circle") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise missing from None
        raise _RowError(Reason.NOT_READABLE, f"{audio}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise _RowError(Reason.NOT_A_FILE, f"{audio} {NotAFile(mode).strerror}")

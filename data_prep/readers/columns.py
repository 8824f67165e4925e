"""What a column of a table holds, by its name or by what stands in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.readers.audio_names import has_audio_suffix
from data_prep.readers.corpus_folder import CorpusFolder
from dimts.core.errors import UserError
from dimts.core.untrusted import printable

NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio_file", "audio_filepath", "audio_path", "file_name", "filename", "wav_filename",
        "file", "path", "wav_path", "wav", "audio", "clip", "id", "utt_id",
    ),
    "text": (
        "text", "raw_transcription", "sentence", "raw_text", "transcript", "transcription",
        "normalized_text", "normalised_text", "normalized_transcription",
    ),
    "speaker": ("speaker_id", "speaker", "speaker_name", "client_id", "spk_id", "spk"),
    "start": ("start", "start_sec", "start_time", "audio_start_sec", "offset"),
    "end": ("end", "end_sec", "end_time"),
    "duration": ("duration", "duration_sec"),
}  # fmt: skip
"""Names of columns in the layouts that there are, the first that is found is used. Texts as they
are written come before normalised ones, as dimts has a normaliser of its own."""

MIXED_SHARE = 0.1
"""Of rows with a third column, from which on it is a normalised text, not a stray delimiter."""
SHORT = 40
"""Characters of a name; of texts, hardly any corpus has none that is longer and repeats."""


@dataclass(frozen=True)
class Roles:
    """Which column (from 0) holds what.

    Attributes:
        audio: the name of the recording.
        text: the text: of several columns the first that is not empty.
        speaker, language, start, end: None if no column holds that.
        n_columns: of a row, at least and, if `rest_is_text` does not hold, at most.
        rest_is_text: a delimiter more than there should be belongs to the text, the last column.
        names: of columns, from a header.
    """

    audio: int
    text: tuple[int, ...]
    n_columns: tuple[int, int]
    speaker: int | None = None
    language: int | None = None
    start: int | None = None
    end: int | None = None
    rest_is_text: bool = False
    names: tuple[str, ...] = ()


def by_name(names: Sequence[str]) -> dict[str, str]:
    """Role -> the name of its column, of those that are known."""
    known = {name.strip().casefold(): name for name in reversed(names)}
    found = {}
    for role, candidates in NAMES.items():
        if name := next((known[c] for c in candidates if c in known), None):
            found[role] = name
    return found


def is_header(cells: Sequence[str], exists: Callable[[str], bool]) -> bool:
    """Whether a first row names columns: a recording's and a text's, and no file."""
    found = by_name(cells)
    return {"audio", "text"} <= found.keys() and not exists(found["audio"].strip())


def header_roles(folder: CorpusFolder, table: str, names: Sequence[str]) -> Roles:
    """Roles by the names of a header, and by `corpus.columns`.

    Raises:
        UserError: a column that was asked for is not there, or none is known to hold the text.
    """
    names = tuple(name.strip() for name in names)
    taken = {role: names.index(name) for role, name in by_name(names).items()}
    taken |= configured(folder, table, len(names), names)
    for role in ("audio", "text"):
        if role not in taken:
            raise UserError(
                f"{folder.config.path / table}: which column holds the {role}? Seen: "
                f"{shown(names)}; set corpus.columns: {{{role}: NAME}}"
            )
    columns = {"audio": taken["audio"], "text": taken["text"]}
    columns |= {r: taken[r] for r in ("speaker", "language", "start", "end") if r in taken}
    others = [n for n in by_known("text", names) if n != names[taken["text"]]]
    note = ", ".join(f"{names[n]} is the {called(role)}" for role, n in columns.items())
    if others:
        note += f"; {', '.join(others)} not read (corpus.columns: {{text: {others[0]}}} would)"
    folder.note("columns", f"{table}: {note}")
    return Roles(
        taken["audio"],
        (taken["text"],),
        (len(names), len(names)),
        speaker=taken.get("speaker"),
        language=taken.get("language"),
        start=taken.get("start"),
        end=taken.get("end"),
        names=names,
    )


def by_known(role: str, names: Sequence[str]) -> list[str]:
    """The names that are known for a role."""
    return [name for name in names if name.casefold() in NAMES[role]]


def configured(
    folder: CorpusFolder, table: str, n_columns: int, names: Sequence[str] = ()
) -> dict[str, int]:
    """Columns (from 0) that `corpus.columns` names or counts.

    Raises:
        UserError: there is no such column.
    """
    taken = {}
    for role, name in folder.config.columns.given.items():
        if isinstance(name, int) and name <= n_columns:
            taken[role] = name - 1
        elif name in names:
            taken[role] = names.index(str(name))
        else:
            there = shown(names) if names else f"{n_columns} columns without names"
            raise UserError(
                f"{folder.config.path / table}: corpus.columns.{role}: no column {name}; it has "
                f"{there}"
            )
    return taken


def guessed_roles(
    folder: CorpusFolder,
    table: str,
    rows: Sequence[Sequence[str]],
    exists: Callable[[str], bool],
) -> Roles:
    """Roles by what stands in the columns, and by `corpus.columns`.

    A column of which the values name files is the recording's; one that repeats is the speaker's;
    of two texts the last is read, as in LJSpeech; numbers alone, as of seconds, are no text.

    Raises:
        UserError: the text cannot be told from the speaker, or no column can be the text.
    """
    if not rows:  # nor anything to be read
        return Roles(0, (1,), (2, 2))
    counts = Counter(map(len, rows))
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    if usual == 2 and counts[3] >= max(2, MIXED_SHARE * len(rows)):
        usual = 3
    place = folder.config.path / table
    if usual < 2:
        raise UserError(
            f"{place}: its lines have no columns; set corpus.delimiter, or corpus.reader to "
            "another layout"
        )
    taken = configured(folder, table, usual)
    sample = [row for row in rows if len(row) == usual]
    audio = taken.get("audio", _names_files(sample, usual, exists, set(taken.values())))
    free = [n for n in range(usual) if n not in {audio, *taken.values()}]
    text: tuple[int, ...] = (taken["text"],) if "text" in taken else ()
    speaker, doubt = taken.get("speaker"), ""
    if not text and len(free) == 1:
        text = (free[0],)
    elif not text and free:
        repeating = [n for n in free if repeats([row[n] for row in sample])]
        words = [n for n in free if any(map(str.isalpha, "".join(row[n] for row in sample)))]
        others = [n for n in words if n not in repeating]
        if not others:
            raise UserError(
                f"{place}: columns {_numbers(free)} all repeat, so which is the text? Set "
                f"corpus.columns: {{text: {free[-1] + 1}}}, with speaker: N if one is its speaker"
            )
        if usual == 3 and len(others) == 2 and audio == 0:
            text = (others[1], others[0])
            doubt = f"{others[0] + 1} not read (corpus.columns: {{text: {others[0] + 1}}} would)"
        else:
            text = (others[-1],)
            left = [n for n in free if n not in (*text, *repeating[:1])]
            if left:
                doubt = f"{_numbers(left)} not read (corpus.columns: {{text: {left[0] + 1}}} would)"
        if speaker is None and repeating:
            speaker = repeating[0]
            doubt = "; ".join(filter(None, [doubt, (
                f"{speaker + 1} repeats, so it is no text (corpus.columns: "
                f"{{text: {speaker + 1}}} would read it)"
            )]))  # fmt: skip
    if not text:
        raise UserError(f"{place}: no column is left for the text; set corpus.columns.text")
    two_texts = len(text) == 2
    rest_is_text = not two_texts and text[0] == usual - 1
    roles = Roles(
        audio,
        text,
        (2 if two_texts else usual, usual),
        speaker=speaker,
        language=taken.get("language"),
        start=taken.get("start"),
        end=taken.get("end"),
        rest_is_text=rest_is_text,
    )
    note = f"{table}: {audio + 1} is the recording, {text[0] + 1} the text"
    if speaker is not None:
        note += f", {speaker + 1} the speaker"
    folder.note("columns", f"{note}; {doubt}" if doubt else note)
    if rest_is_text and (more := sum(n for width, n in counts.items() if width > usual)):
        folder.note(
            "columns",
            f"{table}: {more} rows of {len(rows)} have a delimiter more: part of the text",
        )
    return roles


def repeats(values: Sequence[str]) -> bool:
    """Whether values are names of few, as of speakers: short, each at least twice on average."""
    return 2 * len(set(values)) <= len(values) and max(map(len, values), default=0) <= SHORT


def shown(names: Sequence[str]) -> str:
    """Names from a table, to be printed."""
    return printable(", ".join(names), 300)


def _names_files(
    rows: Sequence[Sequence[str]], n_columns: int, exists: Callable[[str], bool], taken: set[int]
) -> int:
    """The column whose values are files; the first one if none is."""
    few = rows[:: max(1, len(rows) // 50)]
    free = [n for n in range(n_columns) if n not in taken] or [0]

    def n_files(column: int) -> tuple[int, int]:
        values = [row[column] for row in few]
        return sum(map(exists, values)), sum(map(has_audio_suffix, values))

    return max(free, key=lambda n: (*n_files(n), -n))


def called(role: str) -> str:
    """What a person calls the content of a column."""
    return "recording" if role == "audio" else role


def _numbers(columns: Sequence[int]) -> str:
    return " and ".join(str(n + 1) for n in columns)

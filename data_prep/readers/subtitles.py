"""Long recordings with subtitles beside them: each cue is an utterance.

SRT, WebVTT (https://www.w3.org/TR/webvtt1/), and CSV with a header ``start,end,text``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.readers.audio_names import has_audio_suffix
from data_prep.readers.cells import decode
from data_prep.readers.columns import by_name
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows, seconds
from data_prep.utterance import Reason

SUFFIXES = (".srt", ".vtt", ".csv")
MAX_OVERLAP_SECONDS = 0.1
"""Of a cue with the one before it: more, and two people speak at once, or a time is wrong."""
MAX_CUE_LINES = 50

_TIMES = re.compile(r"^\s*([\d:.,]{4,20})\s*-->\s*([\d:.,]{4,20})(?:\s.*)?$")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]{1,200})>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<[\d:.]{4,20}>|\{\\[^{}]{0,200}\}")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": " ", "&lrm;": "", "&rlm;": ""}


class Cue(NamedTuple):
    """A text and its times in seconds."""

    line: int
    start: float
    end: float
    text: str
    speaker: str = ""


def recognise_subtitles(folder: CorpusFolder) -> list[str]:
    """Subtitles with a recording of the same name beside them."""
    return [name for name, _ in _pairs(folder)]


def read_subtitles(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """The cues of all subtitles, in their order; ids are those of the recordings with a number."""
    pairs = _pairs(folder)
    maker = RowMaker(folder, language, ("",))
    folder.note("columns", "each cue is an utterance, from its start to its end")
    for name, audio in pairs:
        maker.table(name, len(pairs) > 1)
        stem = str(PurePosixPath(audio).with_suffix(""))
        own = PurePosixPath(audio).name
        for number, (cue, overlaps) in enumerate(_with_overlaps(cues(folder, name)), start=1):
            utterance_id = f"{stem}_{number:05d}"
            if isinstance(cue, BadCue):
                yield maker.row(cue.line, cue.error, utterance_id)
            elif overlaps:
                detail = f"the cues around {cue.start:.2f} s overlap"
                yield maker.row(cue.line, RowError(Reason.OVERLAPS, detail), utterance_id)
            else:
                cells = Cells(
                    own, cue.text, cue.speaker, id=utterance_id, start=cue.start, end=cue.end
                )
                yield maker.row(cue.line, cells)


class BadCue(NamedTuple):
    """A cue that cannot be read, and why."""

    line: int
    error: RowError


def _pairs(folder: CorpusFolder) -> list[tuple[str, str]]:
    """Subtitles and their recordings; `talk.am.srt` is of `talk.mp4`, too."""
    names = folder.named() if folder.config.tables else folder.tables(*SUFFIXES, depth=1)
    pairs = []
    for name in names:
        place, _, file = name.rpartition("/")
        recordings = [n for n in folder.listing(place).files if has_audio_suffix(n)]
        stems = {PurePosixPath(n).stem: n for n in reversed(recordings)}
        stem = PurePosixPath(file).stem
        audio = stems.get(stem) or stems.get(PurePosixPath(stem).stem)
        if audio and (not file.lower().endswith(".csv") or is_cue_table(folder, name)):
            pairs.append((name, f"{place}/{audio}" if place else audio))
    return pairs


def is_cue_table(folder: CorpusFolder, name: str) -> bool:
    """Whether a table has the columns of cues."""
    names = "".join(folder.head(name, 1)).replace('"', "").split(",")
    return {"start", "end", "text"} <= by_name(names).keys()


def cues(folder: CorpusFolder, name: str) -> Iterator[Cue | BadCue]:
    """The cues of subtitles in their order, and those that cannot be read."""
    lines = _decoded(folder.lines(name), folder.config.encoding)
    if name.lower().endswith(".csv"):
        yield from _table_cues(lines)
        return
    for block in _blocks(lines):
        times = next((n for n, (_, line) in enumerate(block) if "-->" in str(line)), None)
        if times is None or times > 1:
            continue  # a header, a note, a style; no cue
        number = block[times][0]
        try:
            yield _cue(number, [line for _, line in block[times:]])
        except RowError as error:
            yield BadCue(number, error)


def _cue(number: int, lines: Sequence[str | RowError]) -> Cue:
    for line in lines:
        if isinstance(line, RowError):
            raise line
    first, *rest = map(str, lines)
    if any("-->" in line for line in rest):
        raise RowError(Reason.UNDECODABLE_LINE, "no blank line between it and the next cue")
    match = _TIMES.match(first)
    start, end = (seconds(time) for time in match.groups()) if match else (None, None)
    if start is None or end is None:
        raise RowError(Reason.OUTSIDE_RECORDING, f"{first.strip()[:60]} are no times")
    text = " ".join(rest)
    voice = _VOICE.search(text)
    return Cue(number, start, end, plain(text), voice[1].strip() if voice else "")


def plain(text: str) -> str:
    """The text of a cue without tags, on one line."""
    text = _TAG.sub("", text)
    for entity, sign in _ENTITIES.items():
        text = text.replace(entity, sign)
    return " ".join(text.split())


def _table_cues(lines: Iterable[tuple[int, str | RowError]]) -> Iterator[Cue | BadCue]:
    roles: dict[str, int] = {}
    for number, line in lines:
        if isinstance(line, RowError):
            yield BadCue(number, line)
            continue
        if not line.strip():
            continue
        try:
            [cells] = csv.reader([line])
        except csv.Error as error:
            yield BadCue(number, RowError(Reason.UNDECODABLE_LINE, str(error)))
            continue
        if not roles:
            roles = {role: cells.index(name) for role, name in by_name(cells).items()}
            continue
        try:
            if len(cells) <= max(roles.values()):
                raise RowError(Reason.WRONG_COLUMN_COUNT, f"{len(cells)} columns")
            start, end = (seconds(cells[roles[role]]) for role in ("start", "end"))
            if start is None or end is None:
                raise RowError(Reason.OUTSIDE_RECORDING, "a time is missing")
            speaker = cells[roles["speaker"]].strip() if "speaker" in roles else ""
            yield Cue(number, start, end, plain(cells[roles["text"]]), speaker)
        except RowError as error:
            yield BadCue(number, error)


def _blocks(
    lines: Iterable[tuple[int, str | RowError]],
) -> Iterator[list[tuple[int, str | RowError]]]:
    """Lines up to a blank one."""
    block: list[tuple[int, str | RowError]] = []
    for number, line in lines:
        if isinstance(line, RowError) or line.strip():
            block.append((number, line))
            if len(block) < MAX_CUE_LINES:
                continue
        if block:
            yield block
        block = []
    if block:
        yield block


def _decoded(lines: Iterable[bytes], encoding: str) -> Iterator[tuple[int, str | RowError]]:
    for number, line in enumerate(lines, start=1):
        try:
            yield number, decode(line, encoding)
        except RowError as error:
            yield number, error


def _with_overlaps(cues: Iterable[Cue | BadCue]) -> Iterator[tuple[Cue | BadCue, bool]]:
    """Cues, and whether one shares its time with the one before or after it."""
    everything = list(cues)
    timed = sorted(
        (n for n, cue in enumerate(everything) if isinstance(cue, Cue)),
        key=lambda n: everything[n][1:3],
    )
    overlapping: set[int] = set()
    last: int | None = None
    for n in timed:
        if last is not None:
            before, after = everything[last], everything[n]
            assert isinstance(before, Cue)
            assert isinstance(after, Cue)
            if after.start < before.end - MAX_OVERLAP_SECONDS:
                overlapping |= {last, n}
            if after.end < before.end:
                continue  # the longer one may reach the next cue, too
        last = n
    for n, cue in enumerate(everything):
        yield cue, n in overlapping

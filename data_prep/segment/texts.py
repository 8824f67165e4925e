"""The text of a long recording in parts: sentences, or clauses of those that are long.

Plain text, SRT, WebVTT, CSV with ``start,end,text``, Praat TextGrids, and label tracks of Audacity
(https://manual.audacityteam.org/man/importing_and_exporting_labels.html).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.readers.audio_names import has_audio_suffix
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.subtitles import BadCue, cues, is_cue_table
from dimts.core.errors import UserError
from dimts.text.pieces import SENTENCE_ENDS

SUFFIXES = (".txt", ".srt", ".vtt", ".csv", ".textgrid")
MAX_PART = 90
"""Characters, about 6 s of speech: of a longer sentence each clause is a part, and of a longer
clause so many words."""

_CLOSERS = r"[\"'»”’)\]]*"
_WIDE_ENDS = "".join(sorted(SENTENCE_ENDS - set(".?!")))
_SENTENCE = re.compile(rf"(?:[.?!…]+{_CLOSERS}(?=\s)|(?:[{_WIDE_ENDS}]|፡፡|::)+{_CLOSERS})\s*")
_CLAUSE = re.compile(r"[,;:—–፣፤፥፦،؛、，]\s+")
_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?")
_TEXTGRID = re.compile(r'"((?:[^"]|"")*)"|(-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)')


class Part(NamedTuple):
    """A part of a text.

    Attributes:
        text: as it is written.
        ends: whether a sentence, or a cue, ends with it.
        time: seconds at which it begins as far as the text says so, else NaN.
        readable: false for a cue that cannot be read: `text` says which one, and why.
    """

    text: str
    ends: bool
    time: float = math.nan
    readable: bool = True


def recordings_with_texts(folder: CorpusFolder) -> tuple[dict[str, str], list[str]]:
    """The text of each recording, by the same name up to the suffix; recordings that have none.

    Raises:
        UserError: a recording has several texts.
    """
    pairs: dict[str, str] = {}
    without = []
    tables = folder.tables(*SUFFIXES, depth=1)
    for audio in folder.tables("", depth=1):
        if not has_audio_suffix(audio):
            continue
        stem = str(PurePosixPath(audio).with_suffix(""))
        texts = [name for name in tables if str(PurePosixPath(name).with_suffix("")) == stem]
        texts = texts or [name for name in tables if name.startswith(f"{stem}.")]  # talk.am.srt
        if len(texts) > 1:
            raise UserError(
                f"{folder.config.path / audio}: has several texts ({', '.join(texts)}); leave one"
            )
        if texts:
            pairs[audio] = texts[0]
        else:
            without.append(audio)
    return pairs, without


def read_parts(folder: CorpusFolder, name: str) -> list[Part]:
    """The text of a recording in its parts.

    Raises:
        UserError: it cannot be read, or there is no text in it.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".srt", ".vtt", ".csv"):
        if suffix == ".csv" and not is_cue_table(folder, name):
            raise UserError(f"{folder.config.path / name}: needs the columns start, end and text")
        parts = []
        for cue in cues(folder, name):
            if isinstance(cue, BadCue):
                parts.append(Part(f"line {cue.line}: {cue.error.detail}", True, readable=False))
            else:
                parts += _parts(cue.text, cue.start)
    else:
        text = _text(folder, name)
        intervals = _intervals(text) if suffix == ".textgrid" else _labels(text)
        if intervals is None:
            parts = [part for line in text.splitlines() for part in _parts(line)]
        else:
            parts = [part for start, line in intervals for part in _parts(line, start)]
    if not parts:
        raise UserError(f"{folder.config.path / name}: there is no text in it")
    return parts


def _text(folder: CorpusFolder, name: str) -> str:
    with folder.opened(name) as descriptor, open(descriptor, "rb", closefd=False) as file:
        data = file.read()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{folder.config.path / name}: is no UTF-8 at byte {error.start}; save it as UTF-8"
        ) from error


def _parts(text: str, time: float = math.nan) -> Iterator[Part]:
    """Sentences of a line, or clauses of long ones; a line ends a sentence."""
    for sentence in _cut(text, _SENTENCE):
        clauses = [sentence] if len(sentence) <= MAX_PART else list(_clauses(sentence))
        for n, clause in enumerate(clauses, start=1):
            yield Part(clause, n == len(clauses), time)
            time = math.nan


def _cut(text: str, after: re.Pattern[str]) -> list[str]:
    """Parts of a text, each with a letter or digit: "... and then." is one."""
    parts: list[str] = []
    start = 0
    for end in [*(match.end() for match in after.finditer(text)), len(text)]:
        part = " ".join(text[start:end].split())
        if any(map(str.isalnum, part)):
            parts.append(part)
            start = end
    if parts and (rest := text[start:].strip()):
        parts[-1] += f" {rest}"
    return parts


def _clauses(sentence: str) -> Iterator[str]:
    for clause in _cut(sentence, _CLAUSE):
        words: list[str] = []
        for word in clause.split():
            if words and len(" ".join([*words, word])) > MAX_PART:
                yield " ".join(words)
                words = []
            words.append(word)
        yield " ".join(words)


def _labels(text: str) -> list[tuple[float, str]] | None:
    """Times and texts of a label track; None if this is a plain text."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    matches = [_LABEL.fullmatch(line.strip()) for line in lines]
    if not all(matches):
        return None
    found = [(float(m[1].replace(",", ".")), m[3] or "") for m in matches if m]
    return [(start, label) for start, label in found if label.strip()]


def _intervals(text: str) -> list[tuple[float, str]]:
    """Times and texts of the tier of a TextGrid whose texts are longest, in either of its forms."""
    tiers: list[list[tuple[float, str]]] = [[]]
    numbers: list[float] = []
    is_interval = False
    for quoted, number in _TEXTGRID.findall(re.sub(r"\[\d*\]", "", text)):
        if number:
            numbers.append(float(number))
            continue
        label = quoted.replace('""', '"')
        if label in ("IntervalTier", "TextTier"):
            is_interval = label == "IntervalTier"
            tiers.append([])
        elif is_interval and len(numbers) > 1 and label.strip():
            tiers[-1].append((numbers[-2], label))
        numbers = []
    return max(tiers, key=_mean_length)


def _mean_length(tier: Sequence[tuple[float, str]]) -> float:
    return sum(len(label) for _, label in tier) / len(tier) if tier else 0.0

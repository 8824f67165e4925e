"""What a reader yields: an utterance, or a row that it refuses and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class Reason(StrEnum):
    """Why a row of the corpus is not used; `quarantine.csv` holds these words."""

    UNDECODABLE_LINE = "undecodable_line"
    WRONG_COLUMN_COUNT = "wrong_column_count"
    EMPTY_ID = "empty_id"
    UNPRINTABLE_ID = "unprintable_id"
    DUPLICATE_ID = "duplicate_id"
    MISSING_FILE = "missing_file"
    NOT_A_FILE = "not_a_file"
    NOT_READABLE = "not_readable"
    OUTSIDE_CORPUS = "outside_corpus"
    OUTSIDE_RECORDING = "outside_recording"
    EMPTY_TEXT = "empty_text"
    UNKNOWN_CHARACTER = "unknown_character"
    NO_NUMBER_WORDS = "no_number_words"
    BROKEN_AUDIO = "broken_audio"
    EMPTY_AUDIO = "empty_audio"
    NOT_FINITE = "not_finite"
    CHANNELS_CANCEL = "channels_cancel"
    SILENT = "silent"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TEXT_TOO_LONG_FOR_AUDIO = "text_too_long_for_audio"
    TEXT_TOO_SHORT_FOR_AUDIO = "text_too_short_for_audio"
    MISFIT = "misfit"
    EXTRACTION_FAILED = "extraction_failed"
    NEEDS_PYAV = "needs_pyav"
    VOTED_DOWN = "voted_down"
    OVERLAPS = "overlaps"
    LEFT_OUT = "left_out"
    LEFT_OUT_BY_ONLY = "left_out_by_only"
    OTHER_LANGUAGE = "other_language"
    SPEAKER_HAS_FEW_MINUTES = "speaker_has_few_minutes"


class Segment(NamedTuple):
    """A part of a recording."""

    audio: str  # relative to the corpus folder, with slashes on every system; FILE.parquet#ROW
    start: float = 0.0  # seconds
    end: float = math.inf  # seconds; infinity: that of the recording

    @property
    def is_whole(self) -> bool:
        return (self.start, self.end) == (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of the corpus that is not used, and what exactly is wrong with it."""

    row: int  # line of the corpus's table, from 1
    id: str  # as far as it could be read
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """One spoken sentence of a corpus."""

    id: str  # unique in its corpus
    audio: Path  # relative to the corpus folder; absolute in an outer `corpus.audio_folder`
    text: str  # before any normalisation
    speaker: str
    language: str  # code of what is spoken
    row: int  # line of the corpus's table, from 1
    start: float = 0.0  # seconds into the recording
    end: float | None = None  # seconds into the recording; None: where it ends
    split_id: str = ""  # utterances with the same one are in the same split; empty: its id

    @property
    def segment(self) -> Segment:
        end = math.inf if self.end is None else self.end
        return Segment(self.audio.as_posix(), self.start, end)

    def rejected(self, reason: Reason, detail: str) -> Rejected:
        """This row as one that is not used."""
        return Rejected(self.row, self.id, reason, detail)

"""The page Corpus: rows with players, why some are not used, and marks on bad ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import soundfile

from data_prep.left_out import LEFT_OUT, read_left_out
from data_prep.readers import read_corpus
from data_prep.report import read_quarantine
from data_prep.utterance import Rejected, Utterance
from dimts.audio.decoded import AudioError
from dimts.audio.files import read_audio
from dimts.audio.parquet_recordings import opened_recording
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig
from dimts.storage.files import write_atomic
from dimts.storage.paths import AnyPath, require_local
from dimts.studio.requests import Mark, Rows, parse
from dimts.studio.requests import Row as RowAsked
from dimts.studio.voices import Spoken

SHOWN = 50
PLAYED_HZ = 24_000


def recorded(corpus: Path, audio: str, start: float, end: float, rate: int) -> Spoken:
    """A recording of a corpus from one second to another, at a sample rate.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with opened_recording(corpus, audio) as descriptor:
            return Spoken(read_audio(descriptor, rate, start=start, end=end), rate)
    except (AudioError, OSError, soundfile.SoundFileError) as error:
        why = error.detail if isinstance(error, AudioError) else str(error)
        raise UserError(f"{audio}: {why}") from error


class CorpusRows:
    """The rows of a corpus in a folder of this machine.

    Args:
        corpus, language: where it is; what is spoken.
        features: folder of what was prepared; its quarantine says why rows are not used.
    """

    def __init__(self, corpus: CorpusConfig, language: str, features: AnyPath) -> None:
        self._path = require_local(corpus.path, "the studio shows local recordings")
        self._config, self._language = corpus, language
        self._features = features
        self._writes = Lock()

    @cached_property
    def _rows(self) -> list[Utterance | Rejected]:
        return read_corpus(self._config, self._language)[0]

    @cached_property
    def _reasons(self) -> dict[tuple[int, str], str]:
        """By line and id; of features that are not prepared nothing is known."""
        rows = read_quarantine(self._features)
        return {(int(r["row"]), r["id"]): f"{r['reason']}: {r['detail']}" for r in rows}

    def rows(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Some rows from a position on, and how many there are."""
        asked = parse(Rows, values)
        bad = set(read_left_out(self._path))
        known = [
            self._row(index, row, bad)
            for index, row in enumerate(self._rows)
            if not asked.word or asked.word in f"{row.id} {self._said(row)}"
        ]
        return {"of": len(known), "rows": known[asked.start : asked.start + SHOWN]}

    def _said(self, row: Utterance | Rejected) -> str:
        """Why it is not used, and its text."""
        if isinstance(row, Rejected):
            return f"{row.reason.value}: {row.detail}"
        return f"{self._reasons.get((row.row, row.id), '')} {row.text}"

    def _row(self, index: int, row: Utterance | Rejected, bad: set[str]) -> dict[str, Any]:
        plays = isinstance(row, Utterance)
        why = "" if plays else self._said(row)
        return {
            "index": index,
            "id": row.id,
            "text": row.text if isinstance(row, Utterance) else "",
            "why": why or self._reasons.get((row.row, row.id), ""),
            "plays": plays,
            "bad": row.id in bad,
        }

    def recording(self, values: Mapping[str, Any]) -> bytes:
        """A row's recording as a WAV file."""
        row = self._utterance(parse(RowAsked, values).index)
        end = math.inf if row.end is None else row.end
        return recorded(self._path, row.audio.as_posix(), row.start, end, PLAYED_HZ).wav()

    def mark(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Mark a row as bad, or no longer; how many are."""
        asked = parse(Mark, values)
        row = self._utterance(asked.index)
        with self._writes:
            ids = [known for known in read_left_out(self._path) if known != row.id]
            ids += [row.id] * asked.bad
            write_atomic(self._path / LEFT_OUT, "".join(f"{known}\n" for known in ids))
        return {"bad": len(ids)}

    def _utterance(self, index: int) -> Utterance:
        row = self._rows[index] if index < len(self._rows) else None
        if not isinstance(row, Utterance):
            raise UserError(f"row {index}: no row with a recording")
        return row

"""Lhotse: `recordings` and `supervisions`, or `cuts`, as JSON lines, usually compressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.jsonl import json_object
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows, seconds
from data_prep.utterance import Reason
from dimts.core.errors import UserError

SUFFIXES = (".jsonl.gz", ".jsonl")


def recognise_lhotse(folder: CorpusFolder) -> list[str]:
    """Manifests of supervisions with recordings beside them; else of cuts."""
    names = folder.tables(*SUFFIXES, depth=1)
    supervisions = [n for n in names if "supervisions" in n.rpartition("/")[2]]
    found = [n for n in supervisions if n.replace("supervisions", "recordings") in names]
    return found or [n for n in names if "cuts" in n.rpartition("/")[2] and _has_cuts(folder, n)]


def read_lhotse(folder: CorpusFolder, names: list[str], language: str) -> Rows:
    """An utterance for each supervision, the segment of its recording that it is of."""
    maker = RowMaker(folder, language)
    folder.note("columns", "supervisions say text, speaker, start and duration")
    for name in names:
        maker.table(name, len(names) > 1)
        recordings: dict[str, dict[str, Any]] = {}
        if "supervisions" in name.rpartition("/")[2]:
            for _, recording in _objects(folder, name.replace("supervisions", "recordings")):
                if isinstance(recording, dict):
                    recordings[str(recording.get("id"))] = recording
        for number, found in _objects(folder, name):
            if isinstance(found, RowError):
                yield maker.row(number, found)
                continue
            spoken = found.get("supervisions") if "supervisions" in found else [found]
            whole = found.get("recording") if "supervisions" in found else None
            offset = found.get("start", 0) if "supervisions" in found else 0
            for supervision in spoken if isinstance(spoken, list) else [None]:
                shown = str(supervision.get("id", "")) if isinstance(supervision, dict) else ""
                try:
                    cells: Cells | RowError = _cells(supervision, whole, recordings, offset)
                    if isinstance(cells, Cells) and folder.config.columns.language:
                        cells = replace(cells, language=cells.others["language"])
                except RowError as error:
                    cells = error
                yield maker.row(number, cells, shown)


def _cells(
    supervision: Any, recording: Any, recordings: dict[str, dict[str, Any]], offset: Any
) -> Cells:
    if not isinstance(supervision, dict):
        raise RowError(Reason.UNDECODABLE_LINE, "no supervision")
    recording = recording or recordings.get(str(supervision.get("recording_id")))
    if not isinstance(recording, dict):
        raise RowError(Reason.MISSING_FILE, f"no recording {supervision.get('recording_id')}")
    sources = recording.get("sources")
    files = [
        source.get("source")
        for source in (sources if isinstance(sources, list) else [])
        if isinstance(source, dict) and source.get("type") == "file"
    ]
    if len(files) != 1 or not isinstance(files[0], str):
        raise RowError(Reason.MISSING_FILE, "its recording is not one file: commands are not run")
    start = (seconds(supervision.get("start")) or 0.0) + (seconds(offset) or 0.0)
    length = seconds(supervision.get("duration"))
    full = seconds(recording.get("duration"))
    end = None if length is None else start + length
    if start == 0 and length is not None and full is not None and abs(length - full) < 1e-3:
        end = None  # the whole recording
    fields = {
        name: str(supervision.get(name) or "").strip()
        for name in ("id", "text", "speaker", "language", "gender")
    }
    return Cells(
        files[0],
        fields["text"],
        fields["speaker"],
        id=fields["id"],
        start=start or None,
        end=end,
        others=fields,
    )


def _objects(folder: CorpusFolder, name: str) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    for number, line in enumerate(folder.lines(name), start=1):
        if line.strip():
            try:
                yield number, json_object(line)
            except RowError as error:
                yield number, error


def _has_cuts(folder: CorpusFolder, name: str) -> bool:
    try:
        first = next((found for _, found in _objects(folder, name)), None)
    except UserError:
        return False
    return isinstance(first, dict) and "supervisions" in first and "recording" in first

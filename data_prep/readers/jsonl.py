"""One JSON object a line: manifests of NeMo and MMS, `metadata.jsonl` of an audiofolder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

from data_prep.readers.columns import by_name, called
from data_prep.readers.corpus_folder import MAX_LINE_BYTES, CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows, seconds
from data_prep.utterance import Reason
from dimts.core.errors import UserError
from dimts.core.untrusted import parse_json

SAMPLED_LINES = 100
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".ndjson")


def recognise_jsonl(folder: CorpusFolder) -> list[str]:
    """Files whose first line is an object with the name of a recording and a text."""
    if folder.config.tables:
        names = [name for name in folder.named() if name.endswith(SUFFIXES)]
    else:
        names = folder.tables(*SUFFIXES, depth=1)[:50]
    return [name for name in names if {"audio", "text"} <= _roles(folder, name).keys()]


def read_jsonl(folder: CorpusFolder, manifests: list[str], language: str) -> Rows:
    """The rows of all manifests. A `duration` counts where a start is given, too: alone it is that
    of the recording, and may be wrong."""
    maker = RowMaker(folder, language)
    for name in manifests:
        roles = _roles(folder, name) | _configured(folder)
        named = {role: key for role, key in roles.items() if role != "duration"}
        note = ", ".join(f"{key} is the {called(role)}" for role, key in named.items())
        folder.note("columns", f"{name}: {note}")
        parse = partial(_cells, roles=roles)
        yield from maker.lines(name, len(manifests) > 1, parse, first_is_id=False)


def _cells(line: bytes, roles: Mapping[str, str]) -> Cells:
    return cells_of(json_object(line), roles)


def json_object(line: bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        RowError: it holds none.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RowError(Reason.UNDECODABLE_LINE, f"longer than {MAX_LINE_BYTES} bytes")
    try:
        values = parse_json(line)
    except ValueError as error:
        raise RowError(Reason.UNDECODABLE_LINE, f"no JSON: {error}") from None
    if not isinstance(values, dict):
        raise RowError(Reason.UNDECODABLE_LINE, "no JSON object")
    return values


def cells_of(values: Mapping[str, Any], roles: Mapping[str, str]) -> Cells:
    """Cells of an object whose keys have these roles."""

    def cell(role: str) -> str:
        value = values.get(roles.get(role, ""))
        return str(value).strip() if isinstance(value, str | int | float) else ""

    start, end = seconds(cell("start")), seconds(cell("end"))
    duration = seconds(cell("duration"))
    if start is not None and end is None and duration is not None:
        end = start + duration
    others = {k: str(v) for k, v in values.items() if isinstance(v, str | int | float)}
    return Cells(
        cell("audio"),
        cell("text"),
        speaker=cell("speaker"),
        language=cell("language"),
        start=start,
        end=end,
        others=others,
    )


def _roles(folder: CorpusFolder, name: str) -> dict[str, str]:
    """By the keys of the first objects, if the first line holds one."""
    keys: dict[str, None] = {}
    try:
        for n, line in enumerate(islice(folder.lines(name), SAMPLED_LINES)):
            try:
                keys |= dict.fromkeys(json_object(line))
            except RowError:
                if n == 0:
                    return {}
    except UserError:
        return {}
    return by_name(list(keys))


def _configured(folder: CorpusFolder) -> dict[str, str]:
    return {role: str(name) for role, name in folder.config.columns.given.items()}

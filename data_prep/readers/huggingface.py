"""Hugging Face: Parquet files that hold recordings, and `audiofolder` with `metadata.csv`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from data_prep.readers.cells import Format
from data_prep.readers.columns import by_name, is_header, shown
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.jsonl import cells_of
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows
from data_prep.readers.tables import read_tables
from dimts.audio.parquet_recordings import audio_column, leaf
from dimts.core.errors import UserError

METADATA = "metadata.csv"
PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
)  # fmt: skip


def recognise_huggingface(folder: CorpusFolder) -> list[str]:
    """Parquet files; else tables `metadata.csv` with the column `file_name`."""
    if folder.config.tables:
        names = folder.named()
        return [n for n in names if n.endswith(".parquet") or _is_audiofolder(folder, n)]
    if found := folder.tables(".parquet", depth=2):
        return found
    tables = [n for n in folder.tables(METADATA, depth=2) if n.rpartition("/")[2] == METADATA]
    return [name for name in tables if _is_audiofolder(folder, name)]


def read_huggingface(folder: CorpusFolder, names: list[str], language: str) -> Rows:
    """Rows of all files; splits are made anew.

    Raises:
        UserError: one cannot be read, or lacks a recording or a text.
    """
    maker = RowMaker(folder, language, ("", "wavs", "audio"))
    parquet = [name for name in names if name.endswith(".parquet")]
    if tables := [name for name in names if name not in parquet]:
        form = Format(",", quoted=True, encoding=folder.config.encoding)
        yield from read_tables(folder, maker, tables, form, several=len(names) > 1)
    for name in parquet:
        maker.table(name, len(names) > 1)
        yield from _parquet_rows(folder, maker, name)


def _parquet_rows(folder: CorpusFolder, maker: RowMaker, name: str) -> Rows:
    place = folder.config.path / name
    folder.check_inside(name)
    try:
        with folder.root.parquet(name) as file:
            roles, others = _roles(folder, name, file.schema_arrow)
            bytes_at = leaf(file.schema_arrow, roles["bytes"])
            row = 0
            for group in range(file.metadata.num_row_groups):
                has_bytes = not _only_nulls(file.metadata.row_group(group), bytes_at)
                paths = [f"{roles['bytes']}.path"] if bytes_at.endswith(".bytes") else []
                wanted = [*paths, *others]
                for batch in file.iter_batches(row_groups=[group], columns=wanted):
                    for values in batch.to_pylist():
                        cells = _cells(name, row, values, roles, has_bytes)
                        row += 1
                        yield maker.row(row, cells)
    except FileNotFoundError:
        raise UserError(f"{place}: no such file; corpus.tables names it") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # text that is no UTF-8, too
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: cannot be read as Parquet: {problem}") from error


def _cells(
    file: str, row: int, values: dict[str, Any], roles: dict[str, str], has_bytes: bool
) -> Cells | RowError:
    """A row's cells; the recording is the row itself, or a file where it holds only a path."""
    recording = values.get(roles["bytes"])
    path = str(recording.get("path") or "") if isinstance(recording, dict) else ""
    try:
        cells = cells_of(values, {k: v for k, v in roles.items() if k != "bytes"})
    except RowError as error:
        return error
    if not has_bytes:
        return replace(cells, audio=path)
    stem = PurePosixPath(file).name.removesuffix(".parquet")
    name = cells.others.get("id") or PurePosixPath(path).stem or str(row)
    return replace(cells, audio=file, member=row, id=f"{stem}_{name}")


def _roles(folder: CorpusFolder, name: str, schema: pa.Schema) -> tuple[dict[str, str], list[str]]:
    """Role -> column, the recording's as `bytes`; and all columns of plain values."""
    plain = [f.name for f in schema if any(is_one(f.type) for is_one in PLAIN)]
    recording = folder.config.columns.audio or audio_column(schema)
    roles = {r: n for r, n in by_name(plain).items() if r in ("text", "speaker", "start", "end")}
    roles |= {r: str(n) for r, n in folder.config.columns.given.items() if r != "audio"}
    missing = [f"{role}: no column {n}" for role, n in roles.items() if n not in plain]
    if recording not in schema.names:
        missing.append("no column holds recordings (audio)")
    if "text" not in roles:
        missing.append("no column is known to hold the text")
    if missing:
        raise UserError(
            f"{folder.config.path / name}: {missing[0]}; seen: {shown(schema.names)}; "
            "set corpus.columns"
        )
    roles["bytes"] = str(recording)
    others = [n for n in plain if by_name([n]).get("text") and n != roles["text"]]
    note = ", ".join(f"{n} is the {'recording' if r == 'bytes' else r}" for r, n in roles.items())
    if others:
        note += f"; {', '.join(others)} not read (corpus.columns: {{text: {others[0]}}} would)"
    folder.note("columns", note)
    return roles, plain


def _only_nulls(group: Any, path: str) -> bool:
    """Whether a row group has paths of recordings alone."""
    for n in range(group.num_columns):
        column = group.column(n)
        if column.path_in_schema == path and column.statistics is not None:
            return bool(column.statistics.null_count == group.num_rows)
    return False


def _is_audiofolder(folder: CorpusFolder, name: str) -> bool:
    head = folder.head(name, 1)
    names = [cell.strip() for cell in head[0].split(",")] if head else []
    return "file_name" in names and is_header(names, lambda _: False)

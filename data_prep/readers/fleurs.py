"""Google FLEURS: tables of seven columns without header, and `audio/SPLIT/`."""

from __future__ import annotations

from dataclasses import replace

from data_prep.readers.cells import Format
from data_prep.readers.columns import Roles
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.rows import Cells, RowMaker, Rows
from data_prep.readers.tables import read_tables

TABLES = ("train.tsv", "dev.tsv", "test.tsv")
NAMES = ("id", "file", "raw_transcription", "transcription", "characters", "n_samples", "gender")
FOLDERS = ("audio/train", "audio/dev", "audio/test", "audio", "train", "dev", "test", "")


def recognise_fleurs(folder: CorpusFolder) -> list[str]:
    """Tables of seven columns that begin with a number and a file."""
    return [name for name in TABLES if name in folder.top.files and _fits(folder, name)]


def read_fleurs(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """Rows of all tables. Ids repeat, as several people read a sentence: an utterance is known by
    its file, and those of one sentence are in the same split."""
    form = Format("\t", quoted=False, encoding=folder.config.encoding)
    roles = Roles(audio=1, text=(2,), n_columns=(len(NAMES), len(NAMES)))
    folder.note("columns", "2 is the recording, 3 the text as written (4, normalised, not read); "
                "speakers are not told apart")  # fmt: skip
    yield from read_tables(
        folder, RowMaker(folder, language, FOLDERS), tables, form, roles, _by_sentence
    )


def _fits(folder: CorpusFolder, table: str) -> bool:
    rows = [line.split("\t") for line in folder.head(table, 5)]
    return bool(rows) and all(
        len(row) == len(NAMES) and row[0].isdecimal() and row[1].endswith(".wav") for row in rows
    )


def _by_sentence(cells: Cells, columns: dict[str, str]) -> Cells:
    named = dict(zip(NAMES, columns.values(), strict=True))
    return replace(cells, split_id=f"sentence {named['id']}", others=named)

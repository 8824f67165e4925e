"""LJSpeech: `metadata.csv` with ``file|text`` or ``file|text|normalised text``, and `wavs/`."""

from __future__ import annotations

from data_prep.readers.cells import Format
from data_prep.readers.columns import Roles
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.delimited import usual_tables
from data_prep.readers.rows import RowMaker, Rows
from data_prep.readers.tables import read_tables
from dimts.core.errors import UserError

METADATA = "metadata.csv"
ROLES = Roles(audio=0, text=(2, 1), n_columns=(2, 3))
"""Of the texts the third column, the normalised one, is preferred."""


def recognise_ljspeech(folder: CorpusFolder) -> list[str]:
    """The table of that name."""
    return [name for name in usual_tables(folder) if name == METADATA or folder.config.tables]


def read_ljspeech(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """The rows of `metadata.csv` in their order, whatever stands in its columns.

    Raises:
        UserError: there is no such table.
    """
    if not tables:
        raise UserError(
            f"{folder.config.path / METADATA}: no such file; an LJSpeech corpus has {METADATA} "
            "and wavs/; corpus.reader: auto reads other layouts"
        )
    form = Format("|", quoted=False, encoding=folder.config.encoding)
    yield from read_tables(folder, RowMaker(folder, language), tables, form, ROLES)

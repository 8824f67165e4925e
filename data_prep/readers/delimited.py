"""A table of names and texts: Piper, Coqui, VITS, F5-TTS, OpenSLR, comma and tab files."""

from __future__ import annotations

from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.rows import RowMaker, Rows
from data_prep.readers.tables import find_roles, format_of, read_tables, sample_of
from dimts.core.errors import UserError

USUAL = (
    "metadata.csv", "metadata.tsv", "metadata.txt", "line_index.tsv", "transcript.txt",
    "transcripts.txt", "transcript.tsv",
)  # fmt: skip
"""Names of tables; the first that is there is read."""
SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".psv")
MAX_TABLES = 50
"""That are looked into: a folder of many has one text a recording."""
LOOKED_UP = 20
"""Rows whose recordings are looked for, to tell a table of recordings from any other."""


def usual_tables(folder: CorpusFolder) -> list[str]:
    """The table, where the settings or its name say that it is one."""
    if folder.config.tables:
        return folder.named()
    there = {*folder.top.files, *folder.top.folders}  # a folder of that name is an error
    return [name for name in USUAL if name in there][:1]


def recognise_delimited(folder: CorpusFolder) -> list[str]:
    """Tables whose rows name recordings of the corpus."""
    if usual := usual_tables(folder):
        return usual
    for depth in (0, 2):
        names = folder.tables(*SUFFIXES, depth=depth)[:MAX_TABLES]
        if found := [name for name in names if names_recordings(folder, name)]:
            return found
    return []


def read_delimited(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """Rows of the table that there is, or of `corpus.tables`.

    Raises:
        UserError: there is no table, or more than one.
    """
    place = folder.config.path
    if not tables:
        raise UserError(
            f"{place}: no table whose rows name recordings; corpus.tables names it, and "
            "corpus.audio_folder the folder of the recordings"
        )
    if len(tables) > 1 and not folder.config.tables:
        shown = ", ".join(tables[:10])
        raise UserError(
            f"{place}: {len(tables)} tables name recordings: {shown}; "
            f"set corpus.tables: [{tables[0]}], or several of them"
        )
    yield from read_tables(folder, RowMaker(folder, language), tables)


def names_recordings(folder: CorpusFolder, name: str) -> bool:
    """Whether half of the first rows of a file name recordings that are there."""
    try:
        form = format_of(folder, name)
        quiet = CorpusFolder(folder.config)
        maker = RowMaker(quiet, "")
        roles = find_roles(quiet, name, form, maker)
        rows = sample_of(folder, name, form)[1 if roles.names else 0 :][:LOOKED_UP]
    except UserError:
        return False
    beside = name.rpartition("/")[0]
    named = [row[roles.audio] for row in rows if len(row) > roles.audio]
    return 2 * sum(maker.audio.exists(audio, beside) for audio in named) > len(rows) > 0

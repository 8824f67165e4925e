"""Mozilla Common Voice: read sentences (`clips/`) and spontaneous speech (`audios/`)."""

from __future__ import annotations

from dataclasses import replace

from data_prep.readers.cells import Format
from data_prep.readers.columns import Roles
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows
from data_prep.readers.tables import read_tables
from data_prep.utterance import Reason

FOLDERS = ("clips", "audios", "")
USUAL = ("validated.tsv", "train.tsv", "dev.tsv", "test.tsv")
KNOWN = (("path", "sentence"), ("audio_file", "transcription"))
"""Columns of recording and text, of read and of spontaneous speech; they are found by name, as
releases add columns in between."""


def recognise_common_voice(folder: CorpusFolder) -> list[str]:
    """Tables with the columns of Common Voice; `validated.tsv` alone if it is there."""
    if folder.config.tables:
        return [name for name in folder.named() if _names(folder, name)]
    tables = [name for name in folder.tables(".tsv", depth=1) if _names(folder, name)]
    ends = {name.rpartition("/")[2] for name in tables}
    if wanted := [end for end in USUAL if end in ends]:
        wanted = wanted[:1] if wanted[0] == USUAL[0] else wanted
        return [name for name in tables if name.rpartition("/")[2] in wanted]
    return tables


def read_common_voice(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """Rows of `validated.tsv`, else of train, dev and test; one with more votes against is refused.

    Cells are not quoted: texts have stray quotes.
    """
    form = Format("\t", quoted=False, encoding=folder.config.encoding)
    maker = RowMaker(folder, language, FOLDERS)
    for table in tables:
        names = _names(folder, table)
        audio, text = next(pair for pair in KNOWN if set(pair) <= set(names))
        roles = Roles(
            audio=names.index(audio),
            text=(names.index(text),),
            n_columns=(len(names), len(names)),
            speaker=names.index("client_id"),
            names=names,
        )
        folder.note("columns", f"{table}: {audio} is the recording, {text} the text, client_id "
                    "the speaker")  # fmt: skip
        yield from read_tables(folder, maker, [table], form, roles, _votes, len(tables) > 1)


def _names(folder: CorpusFolder, table: str) -> tuple[str, ...]:
    """Names of the columns, if they are those of Common Voice."""
    head = folder.head(table, 1)
    names = tuple(name.strip() for name in head[0].split("\t")) if head else ()
    known = any({*pair, "client_id"} <= set(names) for pair in KNOWN)
    return names if known else ()


def _votes(cells: Cells, columns: dict[str, str]) -> Cells:
    up, down = columns.get("up_votes", ""), columns.get("down_votes", "")
    if down.isdecimal() and int(down[:9]) > int(up[:9] if up.isdecimal() else 0):
        raise RowError(Reason.VOTED_DOWN, f"{up or 0} votes for it, {down} against")
    return replace(cells, language="")

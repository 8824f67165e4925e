"""LibriSpeech (`*.trans.txt`) and Multilingual LibriSpeech (`transcripts.txt`): ids and texts."""

from __future__ import annotations

import re
from functools import partial

from data_prep.readers.cells import decode
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows
from data_prep.utterance import Reason

MULTILINGUAL, CHAPTER = "transcripts.txt", ".trans.txt"
DEPTH = 4
ID = re.compile(r"(\d+)[_-](\d+)[_-]\d+$")
"""Speaker, book or chapter, and number."""


def recognise_librispeech(folder: CorpusFolder) -> list[str]:
    """The tables, up to four folders deep, if the first line of the first one has such an id."""
    tables = [
        name
        for name in folder.tables(MULTILINGUAL, CHAPTER, depth=DEPTH)
        if name.endswith(CHAPTER) or name.rpartition("/")[2] == MULTILINGUAL
    ]
    words = " ".join(folder.head(tables[0], 1)).split(None, 1) if tables else []
    return tables if words and ID.match(words[0]) else []


def read_librispeech(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """Rows of each table; recordings lie beside it or in `audio/SPEAKER/BOOK/`."""
    maker = RowMaker(folder, language, ("", "audio"))
    folder.note("columns", "1 is the recording, its first number the speaker, the rest the text")
    for table in tables:
        parse = partial(_cells, folder.config.encoding, table.endswith(CHAPTER))
        yield from maker.lines(table, len(tables) > 1, parse)


def _cells(encoding: str, beside: bool, line: bytes) -> Cells:
    name, *text = decode(line, encoding).split(None, 1)
    if not (found := ID.match(name)):
        raise RowError(Reason.EMPTY_ID, f"{name:.40} is no SPEAKER_BOOK_NUMBER")
    speaker, book = found.groups()
    audio = name if beside else f"{speaker}/{book}/{name}"
    return Cells(audio, "".join(text).strip(), speaker, id=name)

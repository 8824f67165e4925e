"""Readers of corpora: one file a layout, found by name or by what the folder holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.readers.common_voice import read_common_voice, recognise_common_voice
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.delimited import read_delimited, recognise_delimited, usual_tables
from data_prep.readers.fleurs import read_fleurs, recognise_fleurs
from data_prep.readers.huggingface import read_huggingface, recognise_huggingface
from data_prep.readers.jsonl import read_jsonl, recognise_jsonl
from data_prep.readers.kaldi import read_kaldi, recognise_kaldi
from data_prep.readers.lhotse import read_lhotse, recognise_lhotse
from data_prep.readers.librispeech import read_librispeech, recognise_librispeech
from data_prep.readers.ljspeech import read_ljspeech, recognise_ljspeech
from data_prep.readers.rows import Rows
from data_prep.readers.subtitles import read_subtitles, recognise_subtitles
from data_prep.readers.text_files import read_text_files, recognise_text_files
from data_prep.utterance import Rejected, Utterance
from dimts.core.errors import ConfigError, UserError
from dimts.features.config import CorpusConfig

AUTO = "auto"


class Reader(NamedTuple):
    """A layout of corpora.

    Attributes:
        recognise: the tables by which a folder has this layout; none if it has not.
        read: (folder, those tables, language) -> its rows in their order: utterances, and those
            that are refused.
    """

    recognise: Callable[[CorpusFolder], list[str]]
    read: Callable[[CorpusFolder, list[str], str], Rows]


READERS: dict[str, Reader] = {
    "common_voice": Reader(recognise_common_voice, read_common_voice),
    "delimited": Reader(recognise_delimited, read_delimited),
    "fleurs": Reader(recognise_fleurs, read_fleurs),
    "huggingface": Reader(recognise_huggingface, read_huggingface),
    "jsonl": Reader(recognise_jsonl, read_jsonl),
    "kaldi": Reader(recognise_kaldi, read_kaldi),
    "lhotse": Reader(recognise_lhotse, read_lhotse),
    "librispeech": Reader(recognise_librispeech, read_librispeech),
    "ljspeech": Reader(recognise_ljspeech, read_ljspeech),
    "subtitles": Reader(recognise_subtitles, read_subtitles),
    "text_files": Reader(recognise_text_files, read_text_files),
}
COLUMNS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("common_voice", "fleurs", "kaldi", "librispeech", "ljspeech", "subtitles"), frozenset()
    ),
    "lhotse": frozenset({"language"}),
    "text_files": frozenset({"speaker"}),
}
"""Settings of `corpus.columns` that such a layout leaves open; of others, all."""
FORM = ("delimiter", "header", "quoted")
"""Settings of tables that are written in any way."""
BY_TABLE = ("delimited", "ljspeech")
"""That any folder with a table fits: `auto` takes the first one where no other layout is seen."""


def read_corpus(
    corpus: CorpusConfig, language: str
) -> tuple[list[Utterance | Rejected], list[str]]:
    """Every row of a corpus, and what was taken for what, as lines of the summary.

    Args:
        language: code of what is spoken.

    Raises:
        UserError: there is no such corpus, or its layout is not known or not clear.
    """
    if corpus.reader not in (AUTO, *READERS):
        names = ", ".join((AUTO, *READERS))
        raise ConfigError(f"corpus.reader: {corpus.reader}: no such layout; one of {names}")
    folder = CorpusFolder(corpus)
    name = corpus.reader
    if name == AUTO:
        name = recognise(folder)
        folder.note("reader", f"{name}, recognised (corpus.reader)")
    tables = _tables(folder, name)
    if not tables and name not in BY_TABLE:
        raise UserError(f"{corpus.path}: is not laid out as {name}; {_what_else(folder, name)}")
    if name in COLUMNS and (fixed := corpus.columns.given.keys() - COLUMNS[name]):
        raise ConfigError(
            f"corpus.columns: {', '.join(sorted(fixed))} has no effect on the layout {name}; "
            "corpus.reader: delimited reads a table by its columns"
        )
    if name not in ("delimited", "huggingface") and (
        given := [key for key in FORM if getattr(corpus, key) is not None]
    ):
        raise ConfigError(
            f"corpus.{given[0]}: has no effect on the layout {name}; corpus.reader: delimited "
            "reads tables that are written in any way"
        )
    return list(READERS[name].read(folder, tables, language)), folder.notes


def recognise(folder: CorpusFolder) -> str:
    """The name of the layout that a folder has.

    Raises:
        UserError: it has none that is known, or several.
    """
    config = folder.config
    found = {
        name: tables
        for name in READERS
        if name not in BY_TABLE and (tables := _tables(folder, name))
    }
    if "lhotse" in found:
        found.pop("jsonl", None)  # cuts and supervisions are JSON lines, too
    shared = {table for tables in found.values() for table in tables}
    usual = [table for table in usual_tables(folder) if table not in shared]
    if usual and (found or not config.tables):
        found["delimited"] = usual
    if not found and (tables := READERS["delimited"].recognise(folder)):
        found["delimited"] = tables
    if len(found) == 1:
        return next(iter(found))
    if found:
        seen = ", ".join(f"{name} ({tables[0]})" for name, tables in found.items())
        raise UserError(
            f"{config.path}: looks like {' and like '.join(found)}; seen: {seen}; "
            f"set corpus.reader: {next(iter(found))}, say"
        )
    if not (contents := _contents(folder)):
        raise UserError(f"{config.path}: no such folder, or nothing is in it")
    raise UserError(
        f"{config.path}: no layout of a corpus is seen in it, but {contents}; "
        "corpus.tables names a table, corpus.audio_folder the recordings' folder, corpus.reader "
        f"the layout ({', '.join(READERS)})"
    )


def _tables(folder: CorpusFolder, name: str) -> list[str]:
    """By which a folder has a layout; of them those that `corpus.tables` names, if it does."""
    found, named = READERS[name].recognise(folder), set(folder.named())
    return [table for table in found if table in named] if folder.config.tables else found


def _what_else(folder: CorpusFolder, name: str) -> str:
    """What a folder looks like that has not the layout that was asked for."""
    try:
        return f"it looks like {recognise(folder)}: set corpus.reader: auto, or corpus.tables"
    except UserError as error:
        return str(error).removeprefix(f"{folder.config.path}: ")


def _contents(folder: CorpusFolder) -> str:
    """Folders, and how many files with which ending, at the top of a corpus."""
    top = folder.top
    endings = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in top.files)
    seen = [f"{n} {ending}" for ending, n in endings.most_common(5)]
    seen += [f"{name}/" for name in top.folders[:5]]
    return ", ".join(seen)

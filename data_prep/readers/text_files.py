"""A text file for each recording: VCTK, LibriTTS, Open Bible, transcripts of `.lab` files."""

from __future__ import annotations

from pathlib import PurePosixPath

from data_prep.readers.audio_names import has_audio_suffix
from data_prep.readers.cells import decode
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows
from data_prep.utterance import Reason
from dimts.core.errors import ConfigError, UserError

ENDINGS = (".original.txt", ".normalized.txt", ".txt", ".lab")
"""Of the texts of a recording, the first that is there is read: as it was written."""
MICROPHONE = "_mic1"
"""At the end of VCTK's recordings; those of the second microphone are not used."""
KINDS = {"wav", "wavs", "audio", "txt", "text", "texts", "lab", "flac", "mp3"}
"""Folders that say what is in them, not whose it is."""
DEPTH = 4
MAX_LINES = 100


def recognise_text_files(folder: CorpusFolder) -> list[str]:
    """The texts, if most of them have a recording of their name."""
    pairs, n_texts = _pairs(folder)
    return [text for text, _ in pairs] if 2 * len(pairs) > n_texts else []


def read_text_files(folder: CorpusFolder, tables: list[str], language: str) -> Rows:
    """A row for each text with a recording of its name, in the same folder or in one of the same
    name elsewhere (`txt/p225/`, `wav48/p225/`)."""
    texts = set(tables)
    pairs = [pair for pair in _pairs(folder)[0] if pair[0] in texts]
    maker = RowMaker(folder, language, ("",))
    level = folder.config.columns.speaker
    if isinstance(level, str):
        raise ConfigError("corpus.columns.speaker: text_files: must be the number of a folder")
    folder.note("columns", "the text of a recording is the file of its name; " + (
        f"folder {level} of its path is the speaker" if level
        else "corpus.columns: {speaker: 2} would take the second folder of its path"
    ))  # fmt: skip
    for number, (text, audio) in enumerate(pairs, start=1):
        path = PurePosixPath(audio)
        name = path.stem.removesuffix(MICROPHONE)
        try:
            if level and level >= len(path.parts):
                raise RowError(Reason.EMPTY_ID, f"{audio} is in no {level} folders: no speaker")
            speaker = path.parts[level - 1] if level else ""
            words = _text(folder, text)
        except RowError as error:
            yield maker.row(number, error, name)
        else:
            yield maker.row(number, Cells(audio, words, speaker, id=name))


def _text(folder: CorpusFolder, name: str) -> str:
    """The words of a file, on one line.

    Raises:
        RowError: it is too long, or no text.
    """
    lines = []
    try:
        for line in folder.lines(name):
            lines.append(decode(line, folder.config.encoding).strip())
            if len(lines) > MAX_LINES:
                raise RowError(Reason.UNDECODABLE_LINE, f"{name}: more than {MAX_LINES} lines")
    except UserError as error:
        raise RowError(Reason.UNDECODABLE_LINE, str(error)) from None
    return " ".join(filter(None, lines))


def _pairs(folder: CorpusFolder) -> tuple[list[tuple[str, str]], int]:
    """Texts and their recordings, and how many texts there are."""
    texts: dict[tuple[str, str], tuple[int, str]] = {}  # with the place of its ending
    recordings: dict[tuple[str, str], str] = {}
    for name in folder.tables("", depth=DEPTH):
        if has_audio_suffix(name):
            recordings.setdefault(_key(name, PurePosixPath(name).stem), name)
        elif ending := next((e for e in ENDINGS if name.endswith(e)), ""):
            key = _key(name, PurePosixPath(name).name.removesuffix(ending))
            found = ENDINGS.index(ending), name
            texts[key] = min(texts.get(key, found), found)
    pairs = [(text, recordings[key]) for key, (_, text) in texts.items() if key in recordings]
    return pairs, len(texts)


def _key(name: str, stem: str) -> tuple[str, str]:
    """What a text and its recording have in common: a person's folder, if any, and the name."""
    above = PurePosixPath(name).parent.name
    return "" if above.lower() in KINDS else above, stem.removesuffix(MICROPHONE)

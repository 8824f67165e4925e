"""Kaldi: `text`, `wav.scp`, and optionally `utt2spk` and `segments`, in one folder a set."""

from __future__ import annotations

from functools import partial

from data_prep.readers.cells import decode
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows, seconds
from data_prep.utterance import Reason

TEXT, RECORDINGS, SPEAKERS, SEGMENTS = "text", "wav.scp", "utt2spk", "segments"


def recognise_kaldi(folder: CorpusFolder) -> list[str]:
    """Files `text` with a `wav.scp` beside them, up to two folders deep."""
    texts = [name for name in folder.tables(TEXT, depth=2) if name.rpartition("/")[2] == TEXT]
    return [text for text in texts if RECORDINGS in folder.listing(text.rpartition("/")[0]).files]


def read_kaldi(folder: CorpusFolder, texts: list[str], language: str) -> Rows:
    """Rows of each `text`; ids are Kaldi's. Paths of another machine are found by their ends;
    commands in `wav.scp` are not run."""
    maker = RowMaker(folder, language)
    folder.note(
        "columns", f"{TEXT} is the text, {RECORDINGS} the recording, {SPEAKERS} the speaker"
    )
    for text in texts:
        place = text.removesuffix(TEXT)
        recordings, speakers, segments = (
            _map(folder, place + name) for name in (RECORDINGS, SPEAKERS, SEGMENTS)
        )
        parse = partial(_cells, folder.config.encoding, recordings, speakers, segments)
        yield from maker.lines(text, len(texts) > 1, parse)


def _cells(
    encoding: str,
    recordings: dict[str, str],
    speakers: dict[str, str],
    segments: dict[str, str],
    line: bytes,
) -> Cells:
    name, *words = decode(line, encoding).split(None, 1)
    recording = name
    start: float | None = None
    end: float | None = None
    if name in segments:
        parts = segments[name].split()
        if len(parts) != 3:
            raise RowError(Reason.OUTSIDE_RECORDING, f"{SEGMENTS} says {segments[name]}")
        recording, (start, end) = parts[0], map(seconds, parts[1:])
        end = None if end == 0 else end
    elif segments:
        raise RowError(Reason.OUTSIDE_RECORDING, f"{SEGMENTS} has no line of it")
    path = recordings.get(recording, "")
    if not path:
        raise RowError(Reason.MISSING_FILE, f"{RECORDINGS} has no line of {recording}")
    if path.endswith("|"):
        raise RowError(
            Reason.MISSING_FILE,
            f"{RECORDINGS} has a command, which is not run: write files with it",
        )
    text, speaker = "".join(words).strip(), speakers.get(name, "")
    return Cells(path, text, speaker, id=name, start=start, end=end)


def _map(folder: CorpusFolder, name: str) -> dict[str, str]:
    """First word of a line -> the rest; nothing if there is no such file."""
    place, _, file = name.rpartition("/")
    if file not in folder.listing(place).files:
        return {}
    found: dict[str, str] = {}
    for line in folder.lines(name):
        words = line.decode(folder.config.encoding, "replace").split(None, 1)
        if len(words) == 2:
            found.setdefault(words[0], words[1].strip())
    return found

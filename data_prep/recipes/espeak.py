"""Sentences -> LJSpeech corpus, spoken by espeak-ng: the sample corpora, in seconds, no download.

The bytes depend on the sentence, the voice and the version of espeak-ng, on nothing else: not
on the order of the sentences nor on what the process did before (see `espeak_library`). A natural
voice may speak instead, from the same phonemes (see `hibari_voice`, `kokoro_voice`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_prep.recipes import hibari_voice, kokoro_voice
from data_prep.recipes.espeak_library import Speech, espeak_version, speak
from data_prep.recipes.folder import new_corpus
from dimts.audio.files import write_wav
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.core.untrusted import read_text

SAMPLE_SENTENCES = Path(__file__).parents[1] / "sample_am" / "sentences.txt.xz"
RECEIPT = "espeak.json"  # what a corpus was made from; its presence marks a folder as ours
RECIPE_VERSION = 1
WORTH_A_PROCESS = 40
"""Sentences that a neural voice speaks in the seconds in which a process loads it."""


class Corpus(NamedTuple):
    """What `render_corpus` made, or found made already (`rendered` is False)."""

    n_utterances: int
    seconds: float
    rendered: bool


class Engine(NamedTuple):
    """Who speaks a corpus: (text, language of espeak-ng) -> speech, the same every time.

    Attributes:
        name: of the engine.
        speak: see `espeak_library.speak`.
        version: of what the samples depend on.
    """

    name: str
    speak: Callable[[str, str], Speech]
    version: Callable[[], str]


ESPEAK = Engine("espeak", speak, espeak_version)
HIBARI = Engine("hibari", hibari_voice.speak, hibari_voice.engine_version)
KOKORO = [
    Engine(
        f"kokoro-{style.partition('_')[2]}",
        partial(kokoro_voice.speak, style=style),
        partial(kokoro_voice.engine_version, style),
    )
    for style in kokoro_voice.STYLES
]
ENGINES = {engine.name: engine for engine in (HIBARI, ESPEAK, *KOKORO)}


def render_corpus(
    sentences: Path,
    out: Path,
    voice: str = "am",
    id_prefix: str | None = None,
    engine: Engine = ESPEAK,
) -> Corpus:
    """Speak a text file, one sentence a line, into an LJSpeech corpus.

    Writes `out`/metadata.csv (``id|text``) and wavs/<id>.wav (16-bit mono); ids are
    ``<id_prefix>_0001`` and so on. The folder appears or is replaced as a whole, if this function
    made it. If it holds what these arguments give, nothing is done. `voice` is one of espeak-ng's,
    such as a language's code; ids begin with it if no prefix is given.

    Raises:
        UserError: no such file, nothing to speak, a line with ``|``, an unknown voice, or
            `out` holds something else.
    """
    out = out.resolve()
    texts = read_sentences(sentences)
    prefix = id_prefix or voice
    if set(prefix) & set("/\\|"):
        raise UserError(f"{prefix!r} cannot begin file names and ids; give another id prefix")
    rows = {f"{prefix}_{n:04d}": text for n, text in enumerate(texts, start=1)}
    versions = [espeak_version()] + ([] if engine is ESPEAK else [engine.version()])
    made_from = fingerprint(RECIPE_VERSION, texts, voice, prefix, *versions)
    if (corpus := _already_made(out, made_from, rows)) is not None:
        return corpus
    with new_corpus(out, (out / RECEIPT).exists()) as new:
        seconds = _write_corpus(new, rows, voice, engine)
        receipt = {"fingerprint": made_from, "voice": voice, "seconds": seconds}
        receipt["engine"] = engine.name
        (new / RECEIPT).write_text(json.dumps(receipt) + "\n", encoding="utf-8")
    return Corpus(len(rows), seconds, rendered=True)


def _write_corpus(out: Path, rows: Mapping[str, str], voice: str, engine: Engine) -> float:
    """Write metadata.csv and wavs/; seconds of audio."""
    seconds = 0.0
    with (out / "metadata.csv").open("w", encoding="utf-8", newline="") as metadata:
        speaking = tqdm(rows.items(), desc="speaking", unit="sentence", disable=None)
        for (id_, text), speech in zip(speaking, _spoken(rows, voice, engine), strict=True):
            metadata.write(f"{id_}|{text}\n")
            write_wav(_wav(out, id_), speech.samples / 32768, speech.sample_rate)
            seconds += len(speech.samples) / speech.sample_rate
    return round(seconds, 3)


def _spoken(rows: Mapping[str, str], voice: str, engine: Engine) -> Iterator[Speech]:
    """Each text spoken, in the order of the rows; on all cores where that is worth a start."""
    processes = 1 if engine is ESPEAK else min(n_cores(), len(rows) // WORTH_A_PROCESS)
    if processes < 2:
        yield from (engine.speak(text, voice) for text in rows.values())
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(engine.speak, rows.values(), repeat(voice), chunksize=4)


def _wav(corpus: Path, id_: str) -> Path:
    return corpus / "wavs" / f"{id_}.wav"


def read_sentences(path: Path) -> list[str]:
    """The sentences of a text file, which may be packed as ``.xz``, in their order.

    Raises:
        UserError: it cannot be read, holds none, or one that has a ``|``.
    """
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if "|" in line:
            raise UserError(
                f"{path}:{number}: '|' separates the columns of metadata.csv; remove it"
            )
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path}: holds no sentence")
    return texts


def _already_made(out: Path, made_from: str, ids: Iterable[str]) -> Corpus | None:
    """The corpus in `out` if it was made from the same things and is whole."""
    try:
        receipt = json.loads((out / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = [out / "metadata.csv", *(_wav(out, id_) for id_ in ids)]
    if receipt.get("fingerprint") != made_from or not all(file.is_file() for file in files):
        return None
    return Corpus(len(files) - 1, receipt["seconds"], rendered=False)

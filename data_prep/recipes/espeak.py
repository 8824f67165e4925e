"""Sentences -> LJSpeech corpus, spoken by espeak-ng: the sample corpora, in seconds, no download.

The bytes depend on the sentence, the voice and the version of espeak-ng, on nothing else: not
on the order of the sentences nor on what the process did before (see `espeak_library`). A natural
voice may speak instead, from the same phonemes (see `hibari_voice`).
"""

from __future__ import annotations

import csv
import json
import lzma
import tempfile
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_prep.recipes import hibari_voice
from data_prep.recipes.espeak_library import Speech, espeak_version, speak
from dimts.core.config import fingerprint
from dimts.core.errors import UserError

SAMPLE_SENTENCES = Path(__file__).parents[1] / "sample_am" / "sentences.txt.xz"
RECEIPT = "espeak.json"  # what a corpus was made from; its presence marks a folder as ours
RECIPE_VERSION = 1


class Corpus(NamedTuple):
    """What `render_corpus` made, or found made already (`rendered` is False)."""

    n_utterances: int
    seconds: float
    rendered: bool


class Engine(NamedTuple):
    """Who speaks a corpus: (text, language of espeak-ng) -> speech; the same every time.

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
ENGINES = {engine.name: engine for engine in (HIBARI, ESPEAK)}


def render_corpus(
    sentences: Path,
    out: Path,
    voice: str = "am",
    id_prefix: str | None = None,
    engine: Engine = ESPEAK,
) -> Corpus:
    """Speak a text file, one sentence a line, into an LJSpeech corpus.

    Writes `out`/metadata.csv (``id|text``), wavs/<id>.wav (16-bit mono) and words.csv
    (``id,index,word,start_seconds``, of espeak alone); ids are ``<id_prefix>_0001`` and so on. The
    folder appears or is replaced as a whole. If it holds what these arguments give, nothing is
    done.

    Args:
        sentences: UTF-8 text, see `read_sentences`; blank lines are skipped.
        out: the corpus's folder; an existing one is replaced only if this function made it.
        voice: a voice of espeak-ng, such as its language codes.
        id_prefix: what ids begin with; the voice if not given.
        engine: that speaks.

    Raises:
        UserError: no such file, nothing to speak, a line with ``|``, an unknown voice, or
            `out` holds something else.
    """
    out = out.resolve()
    texts = read_sentences(sentences)
    prefix = id_prefix or voice
    if set(prefix) & set("/\\|"):
        raise UserError(f"{prefix!r} cannot begin file names and ids; give another id prefix")
    versions = [espeak_version()] + ([] if engine is ESPEAK else [engine.version()])
    made_from = fingerprint(RECIPE_VERSION, texts, voice, prefix, *versions)
    if (corpus := _already_made(out, made_from, len(texts), prefix)) is not None:
        return corpus
    if out.exists() and not (out / RECEIPT).exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a corpus of this recipe; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as workshop:
        new = Path(workshop) / "new"
        seconds = _write_corpus(new, texts, voice, prefix, engine)
        receipt = {"fingerprint": made_from, "voice": voice, "seconds": seconds}
        receipt["engine"] = engine.name
        (new / RECEIPT).write_text(json.dumps(receipt) + "\n", encoding="utf-8")
        if (out / RECEIPT).exists():
            out.rename(Path(workshop) / "old")
        new.rename(out)  # onto nothing or an empty folder
    return Corpus(len(texts), seconds, rendered=True)


def _write_corpus(
    out: Path, texts: Sequence[str], voice: str, prefix: str, engine: Engine
) -> float:
    """Write metadata.csv, wavs/ and words.csv into the new folder `out`; seconds of audio."""
    (out / "wavs").mkdir(parents=True)
    seconds = 0.0
    with (
        (out / "metadata.csv").open("w", encoding="utf-8", newline="") as metadata,
        (out / "words.csv").open("w", encoding="utf-8", newline="") as words_file,
    ):
        words = csv.writer(words_file, lineterminator="\n")
        words.writerow(["id", "index", "word", "start_seconds"])
        for n, text in enumerate(tqdm(texts, desc="speaking", unit="sentence", disable=None)):
            speech = engine.speak(text, voice)
            if n == 0:
                first = speech
            id_ = _utterance_id(prefix, n)
            metadata.write(f"{id_}|{text}\n")
            _write_wav(out / "wavs" / f"{id_}.wav", speech)
            words.writerows(
                [id_, k, word.text, f"{word.start_seconds:.6f}"]
                for k, word in enumerate(speech.words)
            )
            seconds += len(speech.samples) / speech.sample_rate
    if not np.array_equal(first.samples, engine.speak(texts[0], voice).samples):
        raise RuntimeError(
            f"{engine.name} kept its state between utterances; is it in use elsewhere?"
        )
    return round(seconds, 3)


def _write_wav(path: Path, speech: Speech) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(speech.sample_rate)
        file.writeframes(speech.samples.astype("<i2").tobytes())


def read_sentences(path: Path) -> list[str]:
    """The sentences of a text file, which may be packed as ``.xz``, in their order.

    Raises:
        UserError: it cannot be read, holds none, or one that has a ``|``.
    """
    try:
        content = path.read_bytes()
        lines = (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines.splitlines(), start=1):
        if "|" in line:
            raise UserError(
                f"{path}:{number}: '|' separates the columns of metadata.csv; remove it"
            )
    texts = [line.strip() for line in lines.splitlines() if line.strip()]
    if not texts:
        raise UserError(f"{path}: holds no sentence")
    return texts


def _utterance_id(prefix: str, n: int) -> str:
    return f"{prefix}_{n + 1:04d}"


def _already_made(out: Path, made_from: str, n: int, prefix: str) -> Corpus | None:
    """The corpus in `out` if it was made from the same things and is whole."""
    try:
        receipt = json.loads((out / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = [
        "metadata.csv",
        "words.csv",
        *(f"wavs/{_utterance_id(prefix, k)}.wav" for k in range(n)),
    ]
    if receipt.get("fingerprint") != made_from or not all((out / name).is_file() for name in names):
        return None
    return Corpus(n, receipt["seconds"], rendered=False)

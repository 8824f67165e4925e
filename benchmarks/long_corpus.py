"""An LJSpeech corpus of as many hours as are asked for, spoken by espeak on all cores.

Of 20,000 utterances, 30 hours, in about two minutes; a folder that holds it is used again. A
shorter corpus is the beginning of a longer one: fewer rows, and the same recordings by hard links,
as links out of a corpus are not followed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import soundfile
from tqdm import tqdm

from data_prep.recipes.espeak import SAMPLE_SENTENCES, read_sentences
from data_prep.recipes.espeak_library import espeak_version, speak
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores

N_UTTERANCES = 20_000
VOICE = "am"
SEED = 0
WORDS = (5, 13)
"""Of an utterance, the least and the most; 20,000 utterances then last 31 hours."""
RECEIPT = "long.json"
CHUNK = 64


def long_corpus(folder: Path, n_utterances: int = N_UTTERANCES) -> Path:
    """Make the corpus, unless it is there.

    Args:
        folder: where it is to lie; what else it holds stays.
        n_utterances: rows of its table.

    Returns:
        The corpus: metadata.csv and wavs/, 16-bit mono at 22,050 Hz.
    """
    rows = texts(n_utterances)
    made_from = fingerprint(rows, VOICE, espeak_version())
    corpus = folder / f"{n_utterances}"
    if _receipt(corpus).get("fingerprint") == made_from:
        return corpus
    (corpus / "wavs").mkdir(parents=True, exist_ok=True)
    parts = [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]
    firsts = range(0, len(rows), CHUNK)
    with ProcessPoolExecutor(n_cores(), get_context("spawn")) as pool:
        done = pool.map(partial(_speak, corpus), firsts, parts)
        seconds = sum(tqdm(done, "speaking", len(parts), unit=f" {CHUNK} utterances", disable=None))
    _finish(corpus, rows, {"fingerprint": made_from, "seconds": seconds})
    return corpus


def beginning(corpus: Path, n_utterances: int) -> Path:
    """The corpus of the first rows of a longer one, beside it."""
    part = corpus.with_name(f"{corpus.name}-{n_utterances}")
    receipt = {"fingerprint": fingerprint(_receipt(corpus), n_utterances)}
    if _receipt(part) == receipt:
        return part
    (part / "wavs").mkdir(parents=True, exist_ok=True)
    for n in range(n_utterances):
        recording = part / _audio(n)
        recording.unlink(missing_ok=True)
        os.link(corpus / _audio(n), recording)
    _finish(part, texts(n_utterances), receipt)
    return part


def texts(n_utterances: int) -> list[str]:
    """Words of the sample corpus in any order; each text once, and always the same ones."""
    words = " ".join(read_sentences(SAMPLE_SENTENCES)).split()
    draws = random.Random(SEED)
    found: dict[str, None] = {}
    while len(found) < n_utterances:
        found[" ".join(draws.sample(words, draws.randint(*WORDS)))] = None
    return list(found)


def _speak(corpus: Path, first: int, rows: Sequence[str]) -> float:
    """Seconds of what was spoken."""
    seconds = 0.0
    for n, text in enumerate(rows, start=first):
        speech = speak(text, VOICE)
        soundfile.write(corpus / _audio(n), speech.samples, speech.sample_rate, subtype="PCM_16")
        seconds += len(speech.samples) / speech.sample_rate
    return seconds


def _audio(n: int) -> str:
    return f"wavs/u{n:06d}.wav"


def _receipt(corpus: Path) -> dict[str, object]:
    try:
        receipt: dict[str, object] = json.loads((corpus / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt


def _finish(corpus: Path, rows: Sequence[str], receipt: Mapping[str, object]) -> None:
    table = "".join(f"u{n:06d}|{text}\n" for n, text in enumerate(rows))
    (corpus / "metadata.csv").write_text(table, encoding="utf-8")
    (corpus / RECEIPT).write_text(json.dumps(receipt) + "\n", encoding="utf-8")

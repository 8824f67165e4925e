"""A tiny corpus of tones, and preparation with settings that suit it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from data_prep.pipeline import prepare
from dimts.audio.mel import MelConfig
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.manifest import Manifest
from dimts.features.mel_extractor import MelExtractor
from dimts.text.normaliser import TextConfig

RATE = 16_000
TEXTS = ("ሰላም ነው።", "እንዴት ነህ?", "ደህና ነኝ።", "ቡና ጠጣ።")
MEL = MelConfig(sample_rate=RATE, n_fft=512, hop_length=200, win_length=400, n_mels=20)
TEXT = TextConfig(language="am")


def tone(n: int, seconds: float = 0.6) -> npt.NDArray[np.float32]:
    """A sound like no other `n`'s, with silence before it."""
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(n).normal(0, 0.02, len(t))
    sound = 0.3 * np.sin(2 * np.pi * (200 + 13 * n) * t) + noise
    return np.concatenate([np.zeros(RATE // 10), sound]).astype(np.float32)


def add_utterance(corpus: Path, n: int, text: str | None = None, **options: Any) -> str:
    """Append one utterance; its id is returned."""
    utterance_id = f"u{n:03d}"
    soundfile.write(corpus / "wavs" / f"{utterance_id}.wav", tone(n, **options), RATE)
    add_row(corpus, f"{utterance_id}|{text or TEXTS[n % len(TEXTS)]}")
    return utterance_id


def add_row(corpus: Path, line: str | bytes) -> None:
    """Append a line to the corpus's table."""
    with (corpus / "metadata.csv").open("ab") as file:
        file.write((line.encode() if isinstance(line, str) else line) + b"\n")


def make_corpus(corpus: Path, n_utterances: int) -> Path:
    """An LJSpeech folder of tones."""
    (corpus / "wavs").mkdir(parents=True)
    (corpus / "metadata.csv").touch()
    for n in range(n_utterances):
        add_utterance(corpus, n)
    return corpus


def run_prepare(
    corpus: Path,
    features: Path,
    on_chunk: Callable[[int], object] | None = None,
    mel: MelConfig = MEL,
    **settings: Any,
) -> Manifest:
    """`prepare` in this process, in chunks of 4."""
    return prepare(
        CorpusConfig(path=corpus),
        TEXT,
        [MelExtractor(mel)],
        PrepareConfig(**{"features": features, "engine": "local", "chunk": 4} | settings),
        on_chunk,
    )


def contents(features: Path) -> dict[str, bytes]:
    """Every file of the features, without what is kept for later runs."""
    return {file.name: file.read_bytes() for file in features.iterdir() if file.is_file()}


def add_hostile_rows(corpus: Path) -> dict[str, str]:
    """Rows that cannot be used: id -> reason."""
    hostile: dict[str, tuple[np.ndarray | bytes | None, str, str]] = {
        "broken": (b"RIFF\x00\x00\x00\x00WAVEjunk", TEXTS[0], "broken_audio"),
        "text_file": (b"this is not audio at all", TEXTS[0], "broken_audio"),
        "empty_file": (b"", TEXTS[0], "empty_audio"),
        "no_samples": (np.zeros(0), TEXTS[0], "empty_audio"),
        "silent": (np.zeros(RATE), TEXTS[0], "silent"),
        "nan": (np.full(RATE, np.nan), TEXTS[0], "not_finite"),
        "short": (tone(1, seconds=0.05)[RATE // 10 :], TEXTS[0], "too_short"),
        "long": (tone(1, seconds=2.5), TEXTS[0], "too_long"),
        "missing": (None, TEXTS[0], "missing_file"),
        "no_text": (tone(1), "", "empty_text"),
        "only_marks": (tone(1), "።", "empty_text"),
        "unknown": (tone(1), "ሰላም Ж", "unknown_character"),
        "long_text": (tone(1), TEXTS[0] * 10, "text_too_long_for_audio"),
        "short_text": (tone(1, seconds=1.9), "ና", "text_too_short_for_audio"),
    }
    for name, (audio, text, _) in hostile.items():
        file = corpus / "wavs" / f"{name}.wav"
        if isinstance(audio, bytes):
            file.write_bytes(audio)
        elif audio is not None:
            soundfile.write(file, audio, RATE, subtype="FLOAT")
        add_row(corpus, f"{name}|{text}")
    return {name: reason for name, (_, _, reason) in hostile.items()}


class Extractions:
    """Counts recordings that were extracted; to be given as `on_chunk`."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, n: int) -> None:
        self.n += n

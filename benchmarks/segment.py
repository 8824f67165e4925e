"""How well long recordings are cut: joined from known utterances, with music and missing text.

    python benchmarks/segment.py --corpus corpora/asterisk_en --language en --minutes 30 60

Utterances are joined in an order of their own, with pauses of 0.2 to 2 s. Between them lie pieces
of music; the text has a paragraph that is not spoken, and lacks utterances that are.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine_facts import machine_facts
from benchmarks.recording import read_recording
from data_prep.readers import read_corpus
from data_prep.segment.cut import CutConfig, Piece
from data_prep.segment.run import SegmentSettings, segment
from data_prep.segment.sound import runs
from data_prep.utterance import Utterance
from dimts.audio.files import write_wav
from dimts.audio.mel import Float32Array
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.cli import JobParser, run_job
from dimts.features.config import CorpusConfig
from dimts.text.normaliser import TextConfig

RATE = 16_000
PAUSES = (0.2, 2.0)
MUSIC_EVERY, MUSIC_SECONDS = 300.0, (5.0, 25.0)
PARAGRAPH = 8
"""Utterances of a paragraph that is missing, for each 30 minutes: in the sound, or in the text."""


@dataclass(frozen=True)
class Truth:
    """An utterance, where it is spoken in seconds, and which frames of 10 ms of it are speech."""

    text: str
    start: float
    end: float
    speech_T: NDArray[np.bool_]
    in_text: bool


class Score(NamedTuple):
    """What became of a recording; seconds.

    Attributes:
        recovered: share of the utterances in the text whose utterances have that text and place.
        wrong: pieces with another text than what is spoken there.
        border: median distance of borders from those of the utterances joined.
        worst_cut: the longest speech of a recovered utterance that is in no piece.
    """

    minutes: float
    utterances: int
    recovered: float
    pieces: int
    wrong: int
    border: float
    worst_cut: float
    cpu_seconds: float


def join(
    folder: Path,
    name: str,
    corpus: Path,
    language: str,
    minutes: float,
    seed: int = 0,
    music_every: float = MUSIC_EVERY,
) -> list[Truth]:
    """Write NAME.wav and NAME.txt into a folder; what is spoken where."""
    rng = np.random.default_rng(seed)
    rows, _ = read_corpus(CorpusConfig(path=corpus), language)
    utterances = [row for row in rows if isinstance(row, Utterance)]
    waves: dict[str, Float32Array] = {}
    order: list[Utterance] = []
    parts, truths, lines, at = [_silence(rng, 0.5)], [], [], 0.5
    music_at, paragraphs = music_every / 2, 0
    while at < 60 * minutes:
        if not order:
            order = [utterances[n] for n in rng.permutation(len(utterances))]
        if at > music_at:
            piece = music(rng, float(rng.uniform(*MUSIC_SECONDS)))
            parts += [piece, _silence(rng, float(rng.uniform(*PAUSES)))]
            at += (len(parts[-1]) + len(parts[-2])) / RATE
            music_at += music_every
        missing = at > (paragraphs + 0.4) * 1800 and len(order) > 2 * PARAGRAPH
        if missing:  # in the text alone
            lines += [order.pop().text for _ in range(PARAGRAPH)]
            paragraphs += 1
        for n in range(PARAGRAPH if missing else 1):  # after three others, in the sound alone
            utterance = order.pop()
            if utterance.id not in waves:
                whole = read_recording(corpus / utterance.audio, RATE)
                start, end = trim_silence(whole, RATE, TrimConfig())
                waves[utterance.id] = whole[start:end]
            wave = waves[utterance.id]
            unwritten = missing and n >= 3
            if not unwritten:
                lines.append(utterance.text)
            end_at = at + len(wave) / RATE
            truths.append(Truth(utterance.text, at, end_at, speech(wave), not unwritten))
            parts += [wave, _silence(rng, float(rng.uniform(*PAUSES)))]
            at = end_at + len(parts[-1]) / RATE
    folder.mkdir(parents=True, exist_ok=True)
    write_wav(folder / f"{name}.wav", np.concatenate(parts), RATE)
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return truths


def speech(wave: Float32Array) -> NDArray[np.bool_]:
    """Frames of 10 ms within 40 dB of the loudest one."""
    hop = RATE // 100
    frames = wave[: len(wave) // hop * hop].reshape(-1, hop)
    power = np.convolve(np.square(frames).sum(axis=1), np.ones(4), mode="same")
    active: NDArray[np.bool_] = power > 1e-4 * power.max()
    return active


def rate(truths: list[Truth], pieces: list[Piece]) -> tuple[float, int, float, float]:
    """Share recovered, wrong pieces, median border in seconds, worst cut in seconds."""
    recovered, wrong = 0, 0
    borders: list[float] = []
    cuts = [0.0]
    for some_truths, some_pieces in together(truths, pieces):
        spoken = " ".join(truth.text for truth in some_truths).split()
        if spoken != " ".join(piece.text for piece in some_pieces).split():
            wrong += len(some_pieces)
            continue
        recovered += len(some_truths)
        borders.append(abs(some_pieces[0].start - some_truths[0].start))
        borders.append(abs(some_pieces[-1].end - some_truths[-1].end))
        for truth in some_truths:
            at = truth.start + np.arange(len(truth.speech_T)) / 100
            lost = truth.speech_T & ~np.any(
                [(piece.start <= at) & (at < piece.end) for piece in some_pieces], axis=0
            )
            cuts += [(last - first) / 100 for first, last in runs(lost)]
    written = sum(truth.in_text for truth in truths)
    return recovered / written, wrong, float(np.median(borders)), max(cuts)


def together(truths: list[Truth], pieces: list[Piece]) -> Iterator[tuple[list[Truth], list[Piece]]]:
    """Utterances and pieces that share time, in groups; those that share none are left out."""
    everything: list[Truth | Piece] = [*truths, *pieces]
    everything.sort(key=lambda one: one.start)
    group: list[Truth | Piece] = []
    end = 0.0
    for one in [*everything, Piece(math.inf, math.inf, "", 0.0)]:
        if one.start > end - 0.1:
            some_truths = [t for t in group if isinstance(t, Truth)]
            some_pieces = [p for p in group if isinstance(p, Piece)]
            if some_pieces:
                yield some_truths, some_pieces
            group = []
        group.append(one)
        end = max(end, one.end) if len(group) > 1 else one.end


def music(rng: np.random.Generator, seconds: float) -> Float32Array:
    """Chords of plucked harmonics over a bass, float32 [n_samples]."""
    wave = np.zeros(round(seconds * RATE), np.float32)
    for beat in np.arange(0, seconds, 0.4):
        for _ in range(3):
            hertz = 110 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12, 15, 17, 19, 22, 24]) / 12)
            n = min(round(rng.uniform(0.4, 1.6) * RATE), len(wave) - round(beat * RATE))
            t = np.arange(n) / RATE
            note = sum(
                np.sin(2 * np.pi * hertz * k * t) / k**1.3 for k in range(1, 12) if hertz * k < 7e3
            )
            first = round(beat * RATE)
            wave[first : first + n] += (note * np.exp(-2.5 * t)).astype(np.float32)
    quiet = 0.2 / max(float(np.abs(wave).max()), 1e-6)
    faded = np.minimum(1, np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) / 800)
    scaled: Float32Array = (wave * quiet * faded).astype(np.float32)
    return scaled


def _silence(rng: np.random.Generator, seconds: float) -> Float32Array:
    return (1e-4 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def measure(arguments: argparse.Namespace, minutes: float, folder: Path) -> Score:
    """Join a recording and cut it again, in this process."""
    truths = join(folder / "in", "joined", arguments.corpus, arguments.language, minutes)
    text = TextConfig(language=arguments.language)
    settings = SegmentSettings(folder / "in", text, CutConfig())
    started = time.process_time()
    made = segment(settings, folder / "out", on_ray=False)
    seconds = time.process_time() - started
    [pieces] = made.pieces.values()
    recovered, wrong, border, cut = rate(truths, pieces)
    written = sum(truth.in_text for truth in truths)
    length = (truths[-1].end) / 60
    return Score(length, written, recovered, len(pieces), wrong, border, cut, seconds)


def main() -> None:
    """Print a row for each length."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="of known utterances")
    parser.add_argument("--language", required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[30.0, 60.0])
    arguments = parser.parse_args()
    print(", ".join(map(str, machine_facts(["numba"]).values())))
    print("| minutes | utterances | recovered | pieces | wrong | border, ms | cut, ms | CPU, s |")
    print("| --- " * len(Score._fields) + "|")
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, 3, Path(folder, "compiled"))
        for minutes in arguments.minutes:
            score = measure(arguments, minutes, Path(folder, f"{minutes:g}"))
            print(
                f"| {score.minutes:.1f} | {score.utterances} | {100 * score.recovered:.1f} % | "
                f"{score.pieces} | {score.wrong} | {1000 * score.border:.0f} | "
                f"{1000 * score.worst_cut:.0f} | {score.cpu_seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    run_job(main)

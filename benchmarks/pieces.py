"""Pieces of a long text, one after the other and several at once, on one core: CPU seconds.

    python benchmarks/pieces.py

Batches of a size and single pieces take turns. Beside them stands what the vocoder takes, which
speaks one piece at a time in any case.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine_facts import machine_facts
from data_prep.recipes.espeak import read_sentences
from dimts.cli import JobParser, run_job
from dimts.core.home import shipped
from dimts.core.threads import one_thread
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import use_shipped_vocoder
from dimts.text.pieces import pieces

SENTENCES = Path(__file__).parents[1] / "data_prep" / "base_texts" / "es.txt.xz"
SIZES = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the median CPU seconds of each size, and how far the mels are apart."""
    parser = JobParser(description=__doc__)
    parser.add_argument("--model", default="bases/natural", help="voice (bases/natural)")
    parser.add_argument("--sentences", type=Path, default=SENTENCES, help="of the text")
    parser.add_argument("--language", default="es", help="of the text (es)")
    parser.add_argument("--pieces", type=int, default=8, help="of the text (8)")
    parser.add_argument("--repeats", type=int, default=5, help="of each size (5)")
    options = parser.parse_args(arguments)
    speaker = AcousticSpeaker.load(shipped(options.model))
    use_shipped_vocoder(speaker)
    normaliser = speaker.tokenizer.normaliser(options.language)
    text = normaliser.normalise(" ".join(read_sentences(options.sentences)))
    cut = pieces(text, normaliser.language.punctuation)
    texts = [piece.text for piece, _ in zip(cut, range(options.pieces), strict=False)]
    ids = [speaker.tokenizer.encode(piece, options.language) for piece in texts]
    sizes = [size for size in SIZES if size <= len(ids)]
    spent: dict[int, list[float]] = {size: [] for size in sizes}
    mels = {}
    for _ in range(options.repeats):
        for size in sizes:
            start = time.process_time()
            batches = [ids[at : at + size] for at in range(0, len(ids), size)]
            mels[size] = [mel for batch in batches for mel in speak(speaker.model, batch)]
            spent[size].append(time.process_time() - start)
    spoken = [speaker.mel(piece, language=options.language) for piece in texts]
    start = time.process_time()
    n_samples = sum(len(speaker.vocode(one.mel_TM, one.f0_T)) for one in spoken)
    vocoder = time.process_time() - start
    print("| pieces at once | CPU, s | largest difference of the mel |\n| --- | --- | --- |")
    for size in sizes:
        apart = max(
            float(np.abs(a - b).max()) if a.shape == b.shape else np.inf
            for a, b in zip(mels[1], mels[size], strict=True)
        )
        print(f"| {size} | {statistics.median(spent[size]):.2f} | {apart:.1g} |")
    print(f"\nvocoder: {vocoder:.2f} s for {n_samples / speaker.sample_rate:.0f} s of speech")
    print("\n".join(f"{name}: {value}" for name, value in machine_facts(("torch",)).items()))
    return 0


@torch.no_grad()
def speak(model: T3, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Normalised mel of each text of a batch, [T, M]."""
    counts = torch.tensor([len(ids) for ids in batch])
    tokens = torch.zeros(len(batch), int(counts.max()), dtype=torch.long)
    for row, ids in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
    rows = None if model.speaker is None else torch.zeros(len(batch), dtype=torch.long)
    with one_thread():
        said = model(tokens, counts, speakers_B=rows)
    frames = said.durations_BNS.sum((1, 2)).tolist()
    return [mel[:n].numpy() for mel, n in zip(said.mel_BTM, frames, strict=True)]


if __name__ == "__main__":
    run_job(main)

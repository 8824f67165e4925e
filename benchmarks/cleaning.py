"""What cleaning adds to preparation: ``python benchmarks/cleaning.py --folder FOLDER``.

Each recording is decoded and extracted with cleaning and with nothing but a plain trim, one right
after the other in one process, so that other load on the machine meets both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.long_corpus import long_corpus
from benchmarks.machine_facts import machine_facts
from data_prep.extract import ExtractSettings, extract
from data_prep.recordings import at_hand, root_of
from data_prep.utterance import Segment
from dimts.audio import trim
from dimts.audio.cleaning import Cleaned, CleaningConfig
from dimts.audio.mel import Float32Array, MelConfig
from dimts.audio.trim import TrimConfig
from dimts.core.threads import one_thread
from dimts.features.mel_extractor import MelExtractor
from dimts.features.pitch_extractor import PitchExtractor

WARM_UP = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Print CPU seconds an hour of speech without cleaning and with it, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the corpus (kept)")
    parser.add_argument("--utterances", type=int, default=300, help="of the corpus (300)")
    options = parser.parse_args(arguments)
    corpus = long_corpus(options.folder.resolve(), options.utterances)
    mel = MelConfig()
    hours, spent = measure(corpus, [MelExtractor(mel), PitchExtractor.of(mel)])
    print("| | without, s an hour | with cleaning | more |\n| --- | --- | --- | --- |")
    for title, (off, on) in (("mel", spent[0]), ("mel and pitch", spent.sum(axis=0))):
        print(f"| {title} | {off / hours:.2f} | {on / hours:.2f} | {100 * (on / off - 1):.1f} % |")
    print(f"\n{options.utterances} utterances. {', '.join(map(str, machine_facts([]).values()))}")
    return 0


def measure(
    corpus: Path, extractors: Sequence[MelExtractor | PitchExtractor]
) -> tuple[float, NDArray[np.float64]]:
    """Hours of speech, and CPU seconds of each extractor without and with cleaning, [n, 2]."""
    audios = [f"wavs/{file.name}" for file in sorted((corpus / "wavs").iterdir())]
    spent, seconds = np.zeros((len(extractors), 2)), 0.0
    with one_thread(), at_hand(root_of(corpus), audios, np.inf) as opened:
        for e, extractor in enumerate(extractors):
            settings = ExtractSettings(extractor, TrimConfig(), 0.0, 60.0)
            for n, audio in enumerate([*audios[:WARM_UP], *audios]):
                for cleaned in (True, False) if n % 2 else (False, True):
                    with plain(not cleaned):
                        start = time.process_time()
                        made = extract(opened, [Segment(audio)], settings)[0].result
                        took = time.process_time() - start
                    if n >= WARM_UP:
                        spent[e, int(cleaned)] += took
                        seconds += made.seconds
    return seconds / 3600 / spent.size, spent


@contextmanager
def plain(on: bool) -> Iterator[None]:
    """Extraction whose trim is judged by `top_db` alone, with nothing else done."""
    if not on:
        yield
        return
    with (
        patch("dimts.audio.files.remove_offset", lambda wave, sample_rate: (wave, 0.0)),
        patch("data_prep.extract.clean", _only_trim),
    ):
        yield


def _only_trim(
    wave: Float32Array, sample_rate: int, config: TrimConfig, cleaning: CleaningConfig
) -> tuple[Float32Array, tuple[int, int], Cleaned]:
    hop, per_frame = round(trim.HOP_SECONDS * sample_rate), trim.HOPS_PER_FRAME
    n_frames, half = 1 + len(wave) // hop, per_frame // 2
    padded = np.zeros((n_frames + per_frame - 1) * hop, np.float32)
    padded[half * hop : half * hop + len(wave)] = wave
    hops = padded.reshape(-1, hop)
    energy = np.convolve(np.einsum("ij,ij->i", hops, hops), np.ones(per_frame), mode="valid")
    speaks = np.flatnonzero(energy > energy.max() * 10 ** (-config.top_db / 10))
    keep = round(config.keep_seconds * sample_rate)
    start = max(0, int(speaks[0]) * hop - keep)
    end = min(len(wave), (int(speaks[-1]) + 1) * hop + keep)
    return wave[start:end], (start, end), Cleaned()


if __name__ == "__main__":
    raise SystemExit(main())

"""An exported voice against the trained one, on all held-out sentences.

    dimts export --model runs/MODEL --out output/fp32
    dimts export --model runs/MODEL --out output/int8 --precision int8
    python benchmarks/export_quality.py --model runs/MODEL --features features/NAME output/fp32 \\
        output/int8

A row a folder: in how many sentences every duration is as torch has it, of those the largest
difference of the log mel and the worst one of the wave, in dB of its power; distortion from the
recordings; naturalness, with --judge (the extra `judges`). A row of torch stands above.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import dimts
from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.evaluation.mcd import mel_cepstral_distortion
from dimts.export.voice import difference_db
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.features.feature_set import FeatureSet
from dimts.runtime.voice import Voice

Float32Array = NDArray[np.float32]
Rate = Callable[[Float32Array], float]


class Spoken(NamedTuple):
    """One sentence of one voice."""

    mel_TM: Float32Array
    durations_NS: NDArray[np.int64]
    wave: Float32Array


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="of dimts export")
    parser.add_argument("--model", required=True, help="what was exported")
    parser.add_argument("--features", required=True, type=Path, help="whose test split is spoken")
    parser.add_argument("--sentences", type=int, help="at most (all)")
    parser.add_argument("--judge", action="store_true", help="of naturalness")
    options = parser.parse_args(arguments)
    split = FeatureSet.open(options.features).split("test")
    texts = split.values("text")[: options.sentences]
    speaker = dimts.load(options.model)
    assert isinstance(speaker, AcousticSpeaker)
    rate = _naturalness(speaker.sample_rate) if options.judge else None
    expected = [_of_torch(speaker, text) for text in texts]
    print("| | MB | same durations | log mel | wave, dB | distortion, dB | naturalness |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    recorded = [split.mel(n) for n in range(len(texts))]
    print(_row("torch", "", expected, expected, recorded, rate), flush=True)
    for folder in options.folders:
        voice = Voice(folder)
        spoken = [_of_export(voice, text) for text in texts]
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        mega = f"{size / 1e6:.1f}"
        print(_row(folder.name, mega, spoken, expected, recorded, rate), flush=True)
    facts = {"sentences": len(texts), **machine_facts(("torch", "onnxruntime"))}
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    return 0


def _of_torch(speaker: AcousticSpeaker, text: str) -> Spoken:
    mel = speaker.mel(text)
    return Spoken(mel.mel_TM, mel.durations_NS, speaker.vocode(mel.mel_TM, mel.f0_T))


def _of_export(voice: Voice, text: str) -> Spoken:
    made = voice.mel(voice.encode(text))
    return Spoken(made["mel"], made["durations"], voice.vocode(made))


def _row(
    name: str, size: str, spoken: Sequence[Spoken], expected: Sequence[Spoken],
    recorded: Sequence[Float32Array], rate: Rate | None,
) -> str:  # fmt: skip
    pairs = list(zip(spoken, expected, strict=True))
    same = [(a, b) for a, b in pairs if np.array_equal(a.durations_NS, b.durations_NS)]
    mel = max((float(np.abs(a.mel_TM - b.mel_TM).max()) for a, b in same), default=float("nan"))
    wave = max((difference_db(b.wave, a.wave) for a, b in same), default=float("nan"))
    mels = zip((one.mel_TM for one in spoken), recorded, strict=True)
    distortion = np.mean([mel_cepstral_distortion(a, b) for a, b in mels])
    heard = f"{np.mean([rate(one.wave) for one in spoken]):.3f}" if rate else ""
    return (
        f"| {name} | {size} | {len(same)} of {len(pairs)} | {mel:.1e} | {wave:.0f} "
        f"| {distortion:.3f} | {heard} |"
    )


def _naturalness(sample_rate: int) -> Rate:
    import torch

    from dimts.evaluation.judges.config import JudgesConfig
    from dimts.evaluation.judges.judge import Clip
    from dimts.evaluation.judges.panel import load_judges

    (judge,) = load_judges(JudgesConfig(names=("naturalness",)), torch.device("cpu"), 1)
    return lambda wave: next(iter(judge.score([Clip(wave, sample_rate)])[0].values()))


if __name__ == "__main__":
    run_job(main)

"""An exported voice against the trained one, on all held-out sentences.

    dimts export --model runs/MODEL --out output/fp32
    dimts export --model runs/MODEL --out output/int8 --precision int8
    python benchmarks/export_quality.py --model runs/MODEL --features features/NAME output/fp32 \\
        output/int8 --judges naturalness,recognition

A row a folder: in how many sentences every duration is as torch has it, of those the largest
difference of the log mel and the worst one of the wave, in dB of its power; length by that of the
recordings, distortion from them; seconds of speech by seconds of CPU time in one thread; what
judges hear (the extra `judges`), and its mean difference from torch with the 95 % interval. A row
of torch stands above. Languages that the recogniser does not know, such as Amharic, have no error
rate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import dimts
from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.evaluation.compare import bootstrap_interval
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip, Scores
from dimts.evaluation.judges.metrics import OF_JUDGE, WEIGHTS
from dimts.evaluation.judges.panel import judge_clips, load_judges
from dimts.evaluation.mcd import mel_cepstral_distortion
from dimts.export.voice import difference_db
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.features.feature_set import FeatureSet
from dimts.runtime.voice import Voice

Float32Array = NDArray[np.float32]


class Spoken(NamedTuple):
    """One sentence of one voice."""

    mel_TM: Float32Array
    durations_NS: NDArray[np.int64]
    wave: Float32Array


class Row(NamedTuple):
    """All sentences of one voice, what judges hear in each, and the CPU time that all took."""

    spoken: list[Spoken]
    scores: list[Scores]
    cpu_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="of dimts export")
    parser.add_argument("--model", required=True, help="what was exported")
    parser.add_argument("--features", required=True, type=Path, help="whose test split is spoken")
    parser.add_argument("--language", help="of the features (the voice's own)")
    parser.add_argument("--voice", help="who speaks, of several")
    parser.add_argument("--sentences", type=int, help="at most (all)")
    parser.add_argument("--judges", default="", help="of naturalness and recognition, by commas")
    options = parser.parse_args(arguments)
    split = FeatureSet.open(options.features).split("test")
    texts = split.values("text")[: options.sentences]
    recorded = [split.mel(n) for n in range(len(texts))]
    names = tuple(filter(None, options.judges.split(",")))
    judges = load_judges(JudgesConfig(names=names), torch.device("cpu"))
    metrics = [OF_JUDGE[judge.name][0].name for judge in judges]
    torch.set_num_threads(1)
    speaker = dimts.load(options.model)
    assert isinstance(speaker, AcousticSpeaker)
    language = options.language or speaker.language or speaker.languages[-1]

    def of_torch(text: str) -> Spoken:
        mel = speaker.mel(text, language=language, voice=options.voice)
        return Spoken(mel.mel_TM, mel.durations_NS, speaker.vocode(mel.mel_TM, mel.f0_T))

    def row(speak: Callable[[str], Spoken]) -> Row:
        speak(texts[0])
        start = time.process_time()
        spoken = [speak(text) for text in texts]
        taken = time.process_time() - start
        waves = zip(texts, spoken, strict=True)
        clips = [Clip(one.wave, speaker.sample_rate, text, language) for text, one in waves]
        return Row(spoken, judge_clips(judges, clips).scores, taken)

    columns = "same durations | log mel | wave, dB | length | distortion, dB | x real time"
    print(f"| | MB | {columns} |" + "".join(f" {name} | difference |" for name in metrics))
    print("| --- " * (8 + 2 * len(metrics)) + "|")
    expected = row(of_torch)
    hop_s = speaker.mel_config.hop_length / speaker.sample_rate
    print(shown("torch", "", expected, expected, recorded, hop_s, metrics), flush=True)
    for folder in options.folders:
        voice = Voice(folder)

        def of_export(text: str, voice: Voice = voice) -> Spoken:
            made = voice.mel(voice.encode(text, language), options.voice)
            return Spoken(made["mel"], made["durations"], voice.vocode(made))

        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        mega = f"{size / 1e6:.1f}"
        found = row(of_export)
        print(shown(folder.name, mega, found, expected, recorded, hop_s, metrics), flush=True)
    facts = {"language": language, "sentences": len(texts)}
    facts |= machine_facts(("torch", "onnxruntime"))
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
    return 0


def shown(
    name: str, size: str, row: Row, expected: Row, recorded: Sequence[Float32Array],
    hop_s: float, metrics: Sequence[str],
) -> str:  # fmt: skip
    """A line of the table."""
    pairs = list(zip(row.spoken, expected.spoken, strict=True))
    same = [(a, b) for a, b in pairs if np.array_equal(a.durations_NS, b.durations_NS)]
    mel = max((float(np.abs(a.mel_TM - b.mel_TM).max()) for a, b in same), default=float("nan"))
    wave = max((difference_db(b.wave, a.wave) for a, b in same), default=float("nan"))
    frames = sum(len(one.mel_TM) for one in row.spoken)
    mels = list(zip((one.mel_TM for one in row.spoken), recorded, strict=True))
    distortion = np.mean([mel_cepstral_distortion(a, b) for a, b in mels])
    cells = [
        name, size, f"{len(same)} of {len(pairs)}", f"{mel:.1e}", f"{wave:.0f}",
        f"{frames / sum(map(len, recorded)):.3f}", f"{distortion:.3f}",
        f"{frames * hop_s / row.cpu_s:.0f}",
    ]  # fmt: skip
    for metric in metrics:
        cells += heard(metric, row.scores, expected.scores)
    return f"| {' | '.join(cells)} |"


def heard(metric: str, scores: Sequence[Scores], expected: Sequence[Scores]) -> list[str]:
    """Mean of a metric, and of its difference from torch with its interval."""
    if any(metric not in score for score in scores):
        return ["", ""]
    values = np.array([score[metric] for score in scores])
    weights = np.array([score.get(WEIGHTS.get(metric, ""), 1.0) for score in scores])
    off = (values - [score[metric] for score in expected]) * weights / weights.mean()
    low, high = bootstrap_interval(off)
    mean = float(np.average(values, weights=weights))
    return [f"{mean:.3f}", f"{off.mean():+.3f} ({low:+.3f} to {high:+.3f})" if off.any() else ""]


if __name__ == "__main__":
    run_job(main)

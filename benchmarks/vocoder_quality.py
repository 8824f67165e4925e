"""How natural a vocoder's copies of recordings are: beside the recordings, and Griffin-Lim's.

    python benchmarks/vocoder_quality.py --model bases/vocoder \\
        --speech features/vocoder/hibari_en --speech corpora/a_speaker_it_never_heard

Speech is a folder of features of the vocoder family, of which the test split counts, or a corpus.
Its mels are spoken again by each model and by Griffin-Lim; the judges of `dimts judge` hear all of
them, and each copy is compared with its own recording. Several models, such as the checkpoints of
one training, stand side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine_facts import machine_facts
from benchmarks.recording import read_recording
from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig, log_mel
from dimts.bundles.bundle import read_manifest
from dimts.bundles.fetch import local_bundle
from dimts.cli import run_job
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip
from dimts.evaluation.judges.panel import judge_clips, load_judges
from dimts.evaluation.judges.report import Report, judge_voices, to_json
from dimts.families.vocoder.extractors import INT16
from dimts.families.vocoder.speaker import NeuralVocoder
from dimts.features.feature_set import FeatureSet

RECORDINGS, GRIFFIN_LIM = "recordings", "Griffin-Lim"
MIN_SECONDS, MAX_SECONDS = 1.2, 12.0
Float32Array = NDArray[np.float32]
Speak = Callable[[Float32Array], Float32Array]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", required=True, help="bundle or run; repeat")
    parser.add_argument("--speech", action="append", required=True, type=Path, help="repeat")
    parser.add_argument("--sentences", type=int, default=24, help="of each folder at most (24)")
    parser.add_argument(
        "--judges", default="naturalness,recognition", help="(naturalness,recognition)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all scores")
    options = parser.parse_args(arguments)
    config = JudgesConfig(names=tuple(options.judges.split(",")))
    judges = load_judges(config, torch.device("cpu"))
    models = {label(place): NeuralVocoder.load(local_bundle(place)) for place in options.model}
    mel = next(iter(models.values())).mel
    copies: dict[str, Speak] = {**models, GRIFFIN_LIM: lambda m: griffin_lim(m, mel)}
    reports = {
        place.name: judge_voices(
            config.names,
            spoken(place, mel, options.sentences, copies),
            partial(judge_clips, judges),
        )
        for place in options.speech
    }
    lines = [*naturalness(reports), "", *recognition(reports)]
    facts = machine_facts(("torch",))
    print("\n".join([*lines, "", *(f"{name}: {value}" for name, value in facts.items())]))
    if options.json:
        found: dict[str, Any] = {name: to_json(report) for name, report in reports.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def label(place: str) -> str:
    """What a model is called in the table: its folder and its step."""
    folder = local_bundle(place)
    return f"{folder.name}, step {read_manifest(folder, verify=False).step}"


def spoken(
    place: Path, mel: MelConfig, n: int, copies: Mapping[str, Speak]
) -> dict[str, list[Clip]]:
    """Some recordings, and the same as each of the others makes them of their mels."""
    voices: dict[str, list[Clip]] = {name: [] for name in (RECORDINGS, *copies)}
    with one_thread():
        for clip in list(recordings(place, mel))[:n]:
            voices[RECORDINGS].append(clip)
            mel_TM = log_mel(clip.wave, mel)
            for name, speak in copies.items():
                wave = speak(mel_TM)
                voices[name].append(
                    Clip(wave, clip.sample_rate, clip.text, clip.language, name=clip.name)
                )
    if not voices[RECORDINGS]:
        raise UserError(f"{place}: no speech of {MIN_SECONDS:g} to {MAX_SECONDS:g} s in it")
    return voices


def recordings(place: Path, mel: MelConfig) -> Iterator[Clip]:
    """Those of a test split, or of a corpus, that are neither short nor long; in their order."""
    rate = mel.sample_rate
    if (place / "manifest.json").is_file():
        split = FeatureSet.open(place).split("test")
        for i, name in enumerate(split.ids):
            wave = split.column("wave", i).astype(np.float32) / np.float32(INT16)
            if MIN_SECONDS < len(wave) / rate < MAX_SECONDS:
                yield Clip(wave, rate, split.texts[i], split.languages[i], name=name)
        return
    for file in sorted((place / "wavs").glob("*.wav")):
        wave = read_recording(file, rate)
        if MIN_SECONDS < len(wave) / rate < MAX_SECONDS:
            yield Clip(wave, rate, name=file.stem)


def naturalness(reports: Mapping[str, Report]) -> list[str]:
    """A row for each copy of each folder."""
    lines = ["| speech | copy | naturalness | minus recordings (95 %) | minus Griffin-Lim |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, report in reports.items():
        for voice in report.scores:
            if not (mean := report.mean(voice, "naturalness")):
                continue
            others = [RECORDINGS, GRIFFIN_LIM]
            apart = [
                "" if other == voice else str(report.difference(voice, other, "naturalness"))
                for other in others
            ]
            what = f"{mean.mean:.2f} +- {mean.std:.2f}"
            lines.append(f"| {name} ({mean.n}) | {voice} | {what} | {apart[0]} | {apart[1]} |")
    return lines


def recognition(reports: Mapping[str, Report]) -> list[str]:
    """Characters that a recogniser hears wrongly, in percent, of all folders together whose
    language it knows: by the length of the texts."""
    lines = ["| copy | CER, % | sentences |", "| --- | --- | --- |"]
    voices = next(iter(reports.values())).scores
    for voice in voices:
        means = [m for r in reports.values() if (m := r.mean(voice, "cer"))]
        if means:
            n = sum(mean.n for mean in means)
            cer = sum(mean.mean * mean.n for mean in means) / n
            lines.append(f"| {voice} | {cer:.2f} | {n} |")
    return lines if len(lines) > 2 else []


if __name__ == "__main__":
    run_job(main)

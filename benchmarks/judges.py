"""How long judges take for a hundred sentences: ``python benchmarks/judges.py``.

Spanish sentences of the project, spoken by the natural voice, each with itself as its recording.
Loading is timed apart: a voice is judged once it is trained, so both count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine_facts import machine_facts
from data_prep.recipes import hibari_voice
from data_prep.recipes.espeak import read_sentences
from dimts.core.environment import n_cores
from dimts.evaluation.judges.config import PRETRAINED, JudgesConfig
from dimts.evaluation.judges.judge import Clip
from dimts.evaluation.judges.panel import judge_clips, load_judges

TEXTS = Path(__file__).parents[1] / "data_prep" / "base_texts" / "es.txt.xz"


def main() -> None:
    """Print a line for each judge, and one for all at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=100, metavar="N")
    parser.add_argument("--threads", type=int, default=n_cores(), metavar="N")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    clips = spoken(arguments.sentences)
    seconds = sum(len(clip.wave) / clip.sample_rate for clip in clips)
    device, threads = torch.device(arguments.device), arguments.threads
    facts = machine_facts(("torch", "ctranslate2", "onnxruntime"))
    print("; ".join(f"{name}: {value}" for name, value in facts.items()))
    print(f"{len(clips)} sentences, {seconds:.0f} s of speech, {threads} threads")
    print("| judge | loading, s | judging, s | of real time |\n| --- | --- | --- | --- |")
    rows = []
    for names in (*((name,) for name in PRETRAINED), PRETRAINED):
        loaded, judged = timed(JudgesConfig(names=names), clips, device, threads)
        name = names[0] if len(names) == 1 else "all at once"
        print(f"| {name} | {loaded:.1f} | {judged:.1f} | {judged / seconds:.3f} |", flush=True)
        rows.append({"judge": name, "loading_s": loaded, "judging_s": judged})
    if arguments.json:
        result = {"sentences": len(clips), "seconds": seconds, "threads": threads, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def spoken(n: int) -> list[Clip]:
    """Sentences of the natural voice; resampled already, as the first judge would do for all."""
    clips = []
    for i, text in enumerate(read_sentences(TEXTS)[:n]):
        speech = hibari_voice.speak(text, "es")
        wave = (speech.samples / 32768).astype(np.float32)
        clips.append(Clip(wave, speech.sample_rate, text, "es", wave, f"es_{i:03d}"))
    return clips


def timed(
    config: JudgesConfig, clips: list[Clip], device: torch.device, threads: int
) -> tuple[float, float]:
    """Seconds of loading and of judging."""
    start = time.perf_counter()
    judges = load_judges(config, device, threads)
    loaded = time.perf_counter()
    judge_clips(judges, clips, threads)
    return loaded - start, time.perf_counter() - loaded


if __name__ == "__main__":
    main()

"""Waves from mels on one core: how many times real time.

    python benchmarks/vocoder.py --model runs/VOCODER

Without a model one of the sizes of ``vocoder/small.yaml`` is measured, untrained: its speed is that
of any of them. The time is the CPU's, of one thread; the least of several rounds. As on a CPU
without AVX-512:

    ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python benchmarks/vocoder.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.machine_facts import machine_facts
from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig
from dimts.bundles.fetch import local_bundle
from dimts.cli import run_job
from dimts.core.threads import one_thread
from dimts.families.vocoder.model.config import ModelConfig
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.speaker import NeuralVocoder

GOAL = 70


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="bundle or run of a vocoder")
    parser.add_argument("--seconds", type=float, default=5.0, help="of speech (5)")
    parser.add_argument("--rounds", type=int, default=10, help="of which the quickest counts (10)")
    options = parser.parse_args(arguments)
    if options.model:
        vocoder = NeuralVocoder.load(local_bundle(options.model))
    else:
        vocoder = NeuralVocoder(Vocoder(ModelConfig(), MelConfig()).eval())
    mel = vocoder.mel
    n_frames = round(options.seconds * mel.sample_rate / mel.hop_length)
    mel_TM = np.random.default_rng(0).normal(-5, 2, (n_frames, mel.n_mels)).astype(np.float32)
    lines = [f"| one core | x real time (goal {GOAL}) |", "| --- | --- |"]
    for name, speak in {
        "whole": lambda: vocoder(mel_TM),
        "F0 given": lambda: vocoder(mel_TM, np.full(n_frames, 150, np.float32)),
        "in chunks": lambda: list(vocoder.chunks(mel_TM)),
        "Griffin-Lim": lambda: griffin_lim(mel_TM, mel),
    }.items():
        with one_thread():
            seconds = _cpu_seconds(speak, options.rounds)
        lines.append(f"| {name} | {options.seconds / seconds:.0f} |")
    facts = {**machine_facts(("torch",)), "vectors": torch.backends.cpu.get_cpu_capability()}
    print("\n".join([*lines, "", *(f"{name}: {value}" for name, value in facts.items())]))
    return 0


def _cpu_seconds(compute: Callable[[], object], rounds: int) -> float:
    """Of the quickest round; the first one plans the computation."""
    seconds = []
    for _ in range(1 + rounds):
        start = time.thread_time()
        compute()
        seconds.append(time.thread_time() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    run_job(main)

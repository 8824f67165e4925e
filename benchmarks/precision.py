"""A training step of each size in each precision, and what `training.amp: auto` takes here.

    python benchmarks/precision.py
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/precision.py
    python benchmarks/precision.py --quick     # does it run at all?

The second command makes oneDNN and torch do as on a CPU with AVX2 alone. The loop is the real one
(sampler, collation, prefetching, step) over synthetic utterances of 1.5 to 10 s, in this process.
The precisions take turns; a step's time is the median over the turns of the mean over a turn's
steps, and the ratio is to the fastest precision of the same size. A precision whose first step
takes more than `HOPELESS` times the fastest one's is not run again: its figure is that step's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.machine_facts import machine_facts
from benchmarks.synthetic import MEAN, STD, synthetic_corpus, synthetic_task
from dimts.audio.mel import MelConfig
from dimts.cli import run_job
from dimts.core.config import Config, build_config, load_config
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.callbacks import Callbacks
from dimts.training.precision import choose_amp
from dimts.training.trainer import Trainer

MODELS = Path(__file__).resolve().parents[1] / "jobs/configs/models"
SIZES = ("tiny", "small", "base")
HOPELESS = 4
GOAL = 1.05
N_UTTERANCES = 512


class Size(Config):
    """A file of `jobs/configs/models`."""

    model: ModelConfig
    training: AcousticTrainingConfig = AcousticTrainingConfig()


class Row(NamedTuple):
    """Seconds a step of one size, by precision."""

    size: str
    seconds: dict[str, float]

    @property
    def fastest(self) -> float:
        return min(self.seconds.values())

    def ratio(self, amp: str) -> float:
        """How many times the fastest precision's time a step in `amp` takes."""
        return self.seconds[amp] / self.fastest


class Clock(Callbacks):
    """Callbacks that note when each step ended."""

    def __init__(self, device: torch.device):
        self._device = device
        self.marks: list[float] = []

    def log(self, values: dict[str, float], step: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.marks.append(time.perf_counter())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=8, help="utterances a step (8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (1)")
    parser.add_argument("--steps", type=int, default=6, help="counted steps a turn (6)")
    parser.add_argument("--turns", type=int, default=5, help="of each precision (5)")
    parser.add_argument("--quick", action="store_true", help="the smallest size, two steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.batch_size, options.steps, options.turns = ["tiny"], 2, 2, 1
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choice = choose_amp(device)
    amps = ("off", "tf32", "bf16", "fp16") if device.type == "cuda" else ("off", "bf16")
    rows = [_measure(size, amps, device, options) for size in options.sizes]
    facts = {
        "auto": choice.amp,
        "because": choice.reason,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "batch size": options.batch_size,
        **machine_facts(("torch",)),
    }
    print(_table(rows, amps, choice.amp, facts))
    if options.json:
        text = json.dumps({**facts, "rows": [row._asdict() for row in rows]}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _measure(
    size: str, amps: Sequence[str], device: torch.device, options: argparse.Namespace
) -> Row:
    model = load_config(Size, [MODELS / f"{size}.yaml"]).model
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    corpus = synthetic_corpus(N_UTTERANCES, tokenizer, MelConfig(), model.states_per_token)
    first: dict[str, float] = {}
    turns: dict[str, list[float]] = {amp: [] for amp in amps}
    for turn in range(options.turns):
        for amp in amps:
            if first and first.get(amp, 0) > HOPELESS * min(first.values()):
                continue
            steps = options.steps if turn else 1
            seconds = _train(model, tokenizer, corpus, amp, steps, device, options.batch_size)
            first.setdefault(amp, seconds)
            if turn or options.turns == 1:
                turns[amp].append(seconds)
        print(f"{size}: turn {turn + 1} of {options.turns}", file=sys.stderr)
    return Row(size, {a: statistics.median(turns[a]) if turns[a] else first[a] for a in amps})


def _train(
    model: ModelConfig,
    tokenizer: Tokenizer,
    corpus: Corpus,
    amp: str,
    steps: int,
    device: torch.device,
    batch_size: int,
) -> float:
    """Mean seconds a step, after one that is not counted."""
    settings = {
        "max_steps": steps + 1,
        "batch_size": batch_size,
        "amp": amp,
        "log_every": 1,
        "validate_every": 0,
        "sample_every": 0,
        "checkpoint_every": 0,
        "aligner": {"fixed_share": 1.0},
    }
    torch.manual_seed(0)
    mel = MelConfig()
    mean, std = torch.full((mel.n_mels,), MEAN), torch.full((mel.n_mels,), STD)
    built = build_model(model, tokenizer, mean, std).to(device)
    clock = Clock(device)
    with tempfile.TemporaryDirectory(prefix="dimts-precision-") as folder:
        config = build_config(AcousticTrainingConfig, settings)
        Trainer(synthetic_task(built, corpus, config), config, Path(folder), clock).run()
    return (clock.marks[-1] - clock.marks[0]) / steps


def _table(rows: list[Row], amps: Sequence[str], auto: str, facts: dict[str, object]) -> str:
    lines = [
        f"| ms a step (ratio to the fastest) | {' | '.join(amps)} | auto / fastest |",
        f"| --- |{' --- |' * (len(amps) + 1)}",
    ]
    for row in rows:
        cells = [f"{1000 * row.seconds[amp]:.1f} ({row.ratio(amp):.2f})" for amp in amps]
        held = "" if row.ratio(auto) <= GOAL else f" (goal {GOAL})"
        lines.append(f"| {row.size} | {' | '.join(cells)} | {row.ratio(auto):.2f}{held} |")
    lines += ["", *(f"{name}: {value}" for name, value in facts.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)

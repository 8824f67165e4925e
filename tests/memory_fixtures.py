"""A training in a process that may use no more memory than it is given; prints what it was told.

python tests/memory_fixtures.py FOLDER [before|during BYTES]
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from training_fixtures import Job, Listener, train

from benchmarks.synthetic import MEAN, STD, synthetic_corpus, synthetic_task
from dimts.audio.mel import MelConfig
from dimts.core.config import build_config
from dimts.families.acoustic.bundle import build_model, write_bundle
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.progress import Result

MODEL = {
    "width": 32,
    "encoder": {"layers": 1, "heads": 2, "feed_forward": 32, "dropout": 0.0},
    "duration": {"channels": 16, "layers": 1, "dropout": 0.0},
    "decoder": {"channels": 192, "blocks": 4, "dropout": 0.0},
}
TRAINING = {
    "max_steps": 4, "batch_size": 8, "amp": "off", "log_every": 1, "validate_every": 0,
    "sample_every": 0, "checkpoint_every": 0, "threads": 1,
}  # fmt: skip


def make_job(folder: Path, tokenizer: Tokenizer, corpus: Corpus, **settings: object) -> Job:
    """A run of a model whose activations are most of its memory."""

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        write_bundle(folder, weights, tokenizer, "{}\n", {**facts, "features": "synthetic"})

    torch.manual_seed(0)
    mean_M, std_M = torch.full((80,), MEAN), torch.full((80,), STD)
    model = build_model(build_config(ModelConfig, MODEL), tokenizer, mean_M, std_M)
    config = build_config(AcousticTrainingConfig, TRAINING | settings)
    return Job(synthetic_task(model, corpus, config, write), config, folder)


def address_space() -> int:
    """Bytes that this process has reserved."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def most_address_space() -> int:
    """The most bytes that it ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmPeak"))


def allow(n_bytes: int) -> None:
    """From now on, reserve no more than `n_bytes` beyond what is."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + n_bytes, most))


class Squeezed(Listener):
    """Loses its room after a step."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self._n_bytes = n_bytes

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if step == 2:
            allow(self._n_bytes)


def main(folder: Path, when: str = "never", room: str = "0") -> None:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_language(load_language("am"), TextConfig(language="am"))
    corpus = synthetic_corpus(24, tokenizer, MelConfig(), n_states=2)
    train(make_job(folder / "warm", tokenizer, corpus, max_steps=1, accumulate=8), Listener())
    job = make_job(folder / "run", tokenizer, corpus)
    before = address_space()
    if when == "before":
        allow(int(room))
    listener = Squeezed(int(room)) if when == "during" else Listener()
    result: Result = train(job, listener)
    outcome = {
        "told": listener.told,
        "losses": listener.curve("train/total_loss"),
        "units": result.units,
        "step": result.step,
        "finite": all(bool(p.isfinite().all()) for p in job.model.parameters()),
        "wanted": most_address_space() - before,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

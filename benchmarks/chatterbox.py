"""What a step of a T3's training takes: tokens a second, share of the device's peak, memory.

    python benchmarks/chatterbox.py
    python benchmarks/chatterbox.py --size full --budget 4096 --budget 8192
    output/chatterbox-env/bin/python benchmarks/chatterbox.py --mode full --transformers

The weights are drawn, so nothing has to be downloaded. Rows are of 10 s of speech and 100 ids of
text. Each case has a process of its own; its memory is the device's peak on a GPU, that of the
process on a CPU. Tokens are those of the sequence, conditioning included.

--transformers measures the same training with the Llama of that package in the place of ours, with
the same weights, the steps of both in turn: tokens a second. chatterbox_parity.py makes an
environment that has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import peak_flops
from benchmarks.machine_facts import machine_facts
from dimts.cli import run_job
from dimts.families.chatterbox.dataset import SpeechBatch
from dimts.families.chatterbox.model import rope as rope_table
from dimts.families.chatterbox.model.config import (
    MAX_PROMPT,
    N_CONDITION,
    SPEAKER_WIDTH,
    START_SPEECH,
    START_TEXT,
    STOP_SPEECH,
    STOP_TEXT,
    T3Config,
)
from dimts.families.chatterbox.model.llama import EPSILON, UNUSED_ROWS
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.objective import SpeechObjective
from dimts.families.chatterbox.settings import ChatterboxTraining, Mode, ModelConfig
from dimts.families.chatterbox.training_parts import set_trained
from dimts.training.config import OptimizerConfig
from dimts.training.optimizer import build_optimizer
from dimts.training.task import Moment

SIZES = {"tiny": T3Config.tiny(), "full": T3Config()}
MODES: tuple[Mode, ...] = ("lora", "top_layers", "full")
N_TEXT, N_SPEECH = 102, 252
"""Of a row, START, STOP, BOS and EOS included: 100 ids and 10 s."""
ROW = N_CONDITION + N_TEXT + N_SPEECH
TOP_LAYERS = {"tiny": 1, "full": 8}


class Case(NamedTuple):
    """What is trained, and how."""

    size: str
    mode: Mode
    checkpointing: bool
    budget: int
    amp: str
    steps: int

    @property
    def rows(self) -> int:
        """Of a batch."""
        return max(1, self.budget // ROW)


class Measured(NamedTuple):
    """Of the median step; FLOPs of one row forwards and backwards, bytes at the most."""

    trained: int
    tokens_per_second: float
    flops_a_row: float
    mfu: float | None
    peak_gib: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all")
    parser.add_argument("--budget", type=int, action="append", help="tokens of a step (2048, 8192)")
    parser.add_argument("--amp", choices=("off", "bf16"), default="bf16")
    parser.add_argument("--steps", type=int, default=5, help="after the first one (5)")
    parser.add_argument("--transformers", action="store_true", help="beside that package's Llama")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.transformers and not find_spec("transformers"):
        parser.error("--transformers: the package is not here; see the text above")
    cases = [
        Case(options.size, mode, checkpointing, budget, options.amp, options.steps)
        for mode in options.mode or MODES
        for checkpointing in (False, True)
        for budget in options.budget or (2048, 8192)
    ]
    print("| trained | checkpointing | tokens a step | tokens a second | MFU | peak GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    results = []
    for case in cases:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            measured = pool.submit(measure, case).result()
        results.append({"case": case._asdict(), **measured._asdict()})
        mfu = "" if measured.mfu is None else f"{measured.mfu:.0%}"
        print(
            f"| {case.mode} ({measured.trained / 1e6:.1f} M) | "
            f"{'yes' if case.checkpointing else 'no'} | {case.rows * ROW} | "
            f"{measured.tokens_per_second:.0f} | {mfu} | {measured.peak_gib:.1f} |",
            flush=True,
        )
    beside = []
    if options.transformers:
        print(
            "\n| trained | checkpointing | tokens a step | tokens a second | transformers | ratio |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        for case in (case for case in cases if case.mode != "lora"):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                ours, theirs = pool.submit(measure_beside, case).result()
            beside.append({"case": case._asdict(), "ours": ours, "transformers": theirs})
            checkpointing = "yes" if case.checkpointing else "no"
            print(
                f"| {case.mode} | {checkpointing} | {case.rows * ROW} | {ours:.0f} | {theirs:.0f} "
                f"| {ours / theirs:.2f} |",
                flush=True,
            )
    facts = machine_facts(("torch",))
    print("\n".join(["", *(f"{name}: {value}" for name, value in facts.items())]))
    if options.json:
        options.json.write_text(
            json.dumps({"results": results, "beside": beside, "machine": facts}, indent=1)
        )
    return 0


def measure(case: Case) -> Measured:
    """Train some steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective, trained = _objective(case, device)
    step = _seconds_of_steps(case, device, [objective])[0]
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    flops = flops_of_a_row(objective, device)
    best = peak_flops(device, "16 bits" if case.amp == "bf16" else "float32")
    return Measured(
        trained,
        case.rows * ROW / step,
        flops,
        flops * case.rows / step / best if best else None,
        peak / 2**30,
    )


def measure_beside(case: Case) -> tuple[float, float]:
    """Tokens a second of ours, and of the same with the Llama of transformers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = (_objective(case, device)[0] for _ in range(2))
    put_transformers(theirs.model, case.checkpointing)
    seconds = _seconds_of_steps(case, device, [ours, theirs])
    return case.rows * ROW / seconds[0], case.rows * ROW / seconds[1]


class Theirs(nn.Module):
    """The Llama of transformers, called as ours is."""

    def __init__(self, llama: nn.Module) -> None:
        super().__init__()
        self.llama = llama

    def forward(self, x_BTC: Tensor) -> Tensor:
        hidden_BTC: Tensor = self.llama(inputs_embeds=x_BTC, use_cache=False)[0]
        return hidden_BTC


def put_transformers(model: T3, checkpointing: bool) -> None:
    """Give a T3 without adapters the Llama of transformers, with the weights that ours has."""
    transformers: Any = import_module("transformers")
    ours, sizes = model.tfmr, model.config
    rope = {
        "rope_type": "llama3", "rope_theta": rope_table.THETA, "factor": rope_table.FACTOR,
        "low_freq_factor": rope_table.LOW, "high_freq_factor": rope_table.HIGH,
        "original_max_position_embeddings": rope_table.ORIGINAL,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        vocab_size=UNUSED_ROWS, hidden_size=sizes.hidden, intermediate_size=sizes.feed_forward,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, rms_norm_eps=EPSILON,
        max_position_embeddings=131072, rope_parameters=rope, attn_implementation="sdpa",
    )  # fmt: skip
    theirs = transformers.LlamaModel(config)
    theirs.load_state_dict(ours.state_dict())
    theirs.to(ours.norm.weight.device).train()
    if checkpointing:
        theirs.gradient_checkpointing_enable({"use_reentrant": False})
    for (_, mine), (_, other) in zip(
        sorted(ours.named_parameters()), sorted(theirs.named_parameters()), strict=True
    ):
        other.requires_grad_(mine.requires_grad)
    model.tfmr = Theirs(theirs)  # type: ignore[assignment]


def _objective(case: Case, device: torch.device) -> tuple[SpeechObjective, int]:
    """A model with drawn weights and its loss, and how many values are trained."""
    torch.manual_seed(0)
    with device:
        model = T3(SIZES[case.size])
    counts = set_trained(model, _model_config(case), frozenset())
    model.to(device).train()
    model.tfmr.checkpointing = case.checkpointing
    training = ChatterboxTraining.model_validate({"amp": case.amp})
    return SpeechObjective(model, training), counts["trained"]


def _seconds_of_steps(
    case: Case, device: torch.device, objectives: Sequence[SpeechObjective]
) -> list[float]:
    """Of the median step of each, after the first; all take a step in turn."""
    optimizers = [
        build_optimizer(objective.model, OptimizerConfig(learning_rate=1e-5))
        for objective in objectives
    ]
    batch = batch_of(case.rows, SIZES[case.size].text_vocab).to(device)
    seconds: list[list[float]] = [[] for _ in objectives]
    for _ in range(1 + case.steps):
        for objective, optimizer, taken in zip(objectives, optimizers, seconds, strict=True):
            optimizer.found_inf = torch.zeros((), device=device)
            start = time.perf_counter()
            objective(batch, Moment(0, 1))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in seconds]


def flops_of_a_row(objective: SpeechObjective, device: torch.device) -> float:
    """FLOPs of one row forwards and backwards, nothing computed twice."""
    objective.model.tfmr.checkpointing = False
    batch = batch_of(1, objective.model.config.text_vocab).to(device)
    with FlopCounterMode(display=False) as counter:
        objective(batch, Moment(0, 1))["loss"].backward()
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def batch_of(rows: int, text_vocab: int) -> SpeechBatch:
    """Drawn rows of one length."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int, n: int) -> torch.Tensor:
        return torch.randint(2, most, (rows, n), generator=generator)

    text_BN, speech_BS = draw(text_vocab, N_TEXT), draw(START_SPEECH, N_SPEECH)
    text_BN[:, 0], text_BN[:, -1] = START_TEXT, STOP_TEXT
    speech_BS[:, 0], speech_BS[:, -1] = START_SPEECH, STOP_SPEECH
    return SpeechBatch(
        ids=[str(row) for row in range(rows)],
        size=rows * ROW,
        tokens_BL=torch.cat([text_BN, speech_BS], 1),
        n_text_B=torch.full((rows,), N_TEXT),
        n_speech_B=torch.full((rows,), N_SPEECH),
        prompt_BP=draw(START_SPEECH, MAX_PROMPT),
        n_prompt_B=torch.full((rows,), MAX_PROMPT),
        speaker_BE=torch.rand(rows, SPEAKER_WIDTH, generator=generator),
        drop_text_B=torch.zeros(rows, dtype=torch.bool),
        widths=(N_TEXT, N_SPEECH),
        n_text_targets=rows * (N_TEXT - 1),
        n_speech_targets=rows * (N_SPEECH - 1),
        n_rows=rows,
    )


def _model_config(case: Case) -> ModelConfig:
    more = {"top_layers": TOP_LAYERS[case.size]} if case.mode == "top_layers" else {}
    return ModelConfig.model_validate({"t3": SIZES[case.size], "mode": case.mode, **more})


if __name__ == "__main__":
    run_job(main)

"""The loop on a CUDA device; without one, only what Triton's interpreter can show."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_fixtures import Job, Listener, Poisoned, train

from benchmarks.synthetic import MEAN, STD, synthetic_corpus, synthetic_task
from dimts.audio.mel import MelConfig
from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.families.acoustic.alignment.search import search, skippable_states
from dimts.families.acoustic.bundle import build_model, write_bundle
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.t3 import T3, align
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.launch.machine import unused_gpu
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.checkpoint import read_state
from dimts.training.fitting import fit_memory
from dimts.training.loader import ScheduledBatch, prefetch
from dimts.training.precision import choose_amp, slow_amp
from dimts.training.progress import Result
from dimts.training.sampler import Position
from dimts.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
MODEL = {
    "width": 32,
    "encoder": {"layers": 1, "heads": 2, "feed_forward": 32, "dropout": 0.1},
    "duration": {"channels": 16, "layers": 1, "dropout": 0.1},
    "decoder": {"channels": 32, "blocks": 2, "dropout": 0.1},
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
only_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the device itself shows it")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


@pytest.fixture(scope="module")
def corpus(tokenizer: Tokenizer) -> Corpus:
    return synthetic_corpus(48, tokenizer, MelConfig(), n_states=2)


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tokenizer: Tokenizer, corpus: Corpus, tmp_path: Path) -> MakeJob:
    """``make_job("name", max_steps=3)``: a job of the tiny model, on CUDA where there is none
    named."""

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        write_bundle(folder, weights, tokenizer, "{}\n", {**facts, "features": "synthetic"})

    def build(name: str, device: str = "cuda", train: Corpus = corpus, **settings: object) -> Job:
        torch.manual_seed(0)
        mean_M, std_M = torch.full((80,), MEAN), torch.full((80,), STD)
        model = build_model(ModelConfig(**MODEL), tokenizer, mean_M, std_M)
        defaults = {
            "max_steps": 12, "batch_size": 4, "amp": "off", "log_every": 1, "validate_every": 0,
            "sample_every": 0, "checkpoint_every": 0, "aligner": {"fixed_share": 0.5},
            "optimizer": {"warmup_steps": 4},
        }  # fmt: skip
        config = build_config(AcousticTrainingConfig, {**defaults, **settings})
        task = synthetic_task(model.to(device), train, config, write)
        return Job(replace(task, val=corpus), config, tmp_path / name)

    return build


def run(job: Job, stop_after: int | None = None) -> tuple[Listener, Result]:
    listener = Listener(stop_after)
    return listener, train(job, listener)


def trainer_of(job: Job, listener: Listener | None = None) -> Trainer:
    return Trainer(job.task, job.config, job.run_dir, listener or Listener())


def weights(model: T3) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


# The search

SEARCH = """
import sys, numpy as np, torch
from dimts.families.acoustic.alignment.search import search, skippable_states
from dimts.families.acoustic.alignment.search_triton import search_on_device
rng = np.random.default_rng(0)
for b, t, n, s in ((3, 40, 8, 2), (5, 30, 10, 1), (2, 35, 9, 3), (2, 1, 1, 2)):
    scores = rng.normal(0, 3, (b, t, n * s)).astype(np.float32)
    scores[0, : t // 2] = 0  # ties
    needed = n * max(1, s - 1)
    frames, tokens = rng.integers(needed, t + 1, b), rng.integers(1, n + 1, b)
    expected = search(scores, frames, tokens * s, skippable_states(n, s))
    device = sys.argv[1]
    found = search_on_device(
        *(torch.from_numpy(x).to(device) for x in (scores, frames, tokens * s)), s
    )
    assert np.array_equal(expected, found.cpu().numpy()), (b, t, n, s)
print("the same")
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=only_cpu), pytest.param("cuda", marks=needs_cuda)]
)
def test_search_on_the_device_finds_the_same_paths(device: str) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "PYTHONPATH": "platform"}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, device],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "the same\n", done.stderr


@needs_cuda
def test_long_alignment_on_the_device_is_the_cpu_s() -> None:
    torch.manual_seed(0)
    means_BNSM, mel_BTM = torch.randn(8, 90, 2, 80), torch.randn(8, 850, 80)
    n_tokens_B = torch.randint(40, 91, (8,))
    n_frames_B = torch.randint(400, 851, (8,))
    cuda = [x.cuda() for x in (means_BNSM, n_tokens_B, mel_BTM, n_frames_B)]
    found = align(*cuda).cpu()
    scores = cuda[2] @ cuda[0].view(8, 180, 80).transpose(1, 2)
    scores = scores - 0.5 * cuda[0].view(8, 180, 80).square().sum(-1)[:, None]
    expected = search(
        scores.cpu().numpy(), n_frames_B.numpy(), 2 * n_tokens_B.numpy(), skippable_states(90, 2)
    )
    assert np.array_equal(found.view(8, 180).numpy(), expected)


# The step


@needs_cuda
@pytest.mark.parametrize("fixed_share", [1.0, 0.0], ids=["given", "searched"])
def test_first_losses_on_the_device_are_those_of_the_cpu(
    make_job: MakeJob, fixed_share: float
) -> None:
    """Without dropout, whose random numbers are each device's own."""
    curves = {}
    for device in ("cpu", "cuda"):
        job = make_job(device, device, max_steps=3, aligner={"fixed_share": fixed_share})
        for module in job.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "dropout", None), float):
                vars(module)["dropout"] = 0.0
        listener, _ = run(job)
        curves[device] = listener
    for key in ("train/total_loss", "train/duration_loss", "train/prior_loss", "train/mel_mse"):
        of_cpu = curves["cpu"].curve(key)
        assert curves["cuda"].curve(key)[:1] == pytest.approx(of_cpu[:1], rel=1e-5), key
        assert curves["cuda"].curve(key) == pytest.approx(of_cpu, rel=2e-3), key


@needs_cuda
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_cpu_waits_for_the_device_nowhere_in_a_step(make_job: MakeJob, amp: str) -> None:
    job = make_job("waits", amp=amp, ema_decay=0.9, aligner={"fixed_share": 0.0})
    trainer = trainer_of(job)
    batches = [job.train.collate(range(i, i + 4), pad_to_multiple=True).pin() for i in range(4)]
    steps = [ScheduledBatch(Position(0, i + 1), b.ids, [b]) for i, b in enumerate(batches)]
    scheduled = prefetch(iter([*steps[:2], *steps]))
    for _ in range(2):
        trainer.stepper.step(scheduled, lambda: False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            assert trainer.stepper.step(scheduled, lambda: False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        scheduled.close()


@needs_cuda
def test_frames_per_second_are_of_steps_that_the_device_has_done(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step keeps the device for a while; the seconds that were counted are no fewer."""
    job, spans = make_job("speed", max_steps=4), []

    def linger(*_: object) -> None:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(500_000_000)
        end.record()
        spans.append((begin, end))

    job.model.register_forward_pre_hook(linger)
    monkeypatch.setattr("dimts.training.trainer.fit_memory", lambda *_: None)
    listener, _ = run(job)
    torch.cuda.synchronize()
    lingered = [begin.elapsed_time(end) / 1000 for begin, end in spans]
    frames = np.diff([0, *listener.curve("train/frames")])
    seconds = frames / listener.curve("train/frames_per_second")
    assert len(spans) == 4
    assert (seconds > lingered).all()


@needs_cuda
def test_overflow_in_fp16_lowers_the_scale_and_leaves_the_step_out(make_job: MakeJob) -> None:
    job = make_job("overflow", amp="fp16", max_steps=30)
    before = weights(job.model)
    trainer = trainer_of(job, listener := Listener())
    scaler = trainer.state.objectives[0].scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**36})
    held = []

    def log(values: dict[str, float], step: int) -> None:
        listener.values[step] = values
        now = weights(job.model)
        held.append(all(torch.equal(before[name], now[name]) for name in now))

    listener.log = log  # type: ignore[method-assign]
    result = trainer.run()
    n = held.count(True)
    assert 5 < n < 30, "so many steps overflow, one after another"
    assert held == [True] * n + [False] * (30 - n)
    assert scaler.get_scale() <= 2.0 ** (36 - n)
    assert (result.step, result.skipped) == (30, 0), "an overflow is no bad step"
    assert all(t.isfinite().all() for t in job.model.state_dict().values())
    assert np.isfinite(listener.curve("train/total_loss")).all()


def bad_corpus(corpus: Corpus, bad: set[str]) -> Corpus:
    changed = Corpus(Poisoned(corpus.utterances, bad), corpus.tokens)
    changed.durations = corpus.durations
    return changed


@needs_cuda
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_bad_batch_is_left_out_on_the_device_and_named(
    make_job: MakeJob, corpus: Corpus, amp: str
) -> None:
    bad = corpus.utterances.ids[7]
    job = make_job("bad", amp=amp, train=bad_corpus(corpus, {bad}), max_steps=24, log_every=6)
    listener, result = run(job)
    assert result.skipped == len(listener.told) == 2, "once an epoch of 12 batches"
    assert all("left out" in text and bad in text for text in listener.told)
    assert listener.values[24]["train/skipped_steps"] == 2
    assert np.isfinite(listener.curve("train/total_loss")).all()
    assert all(t.isfinite().all() for t in job.model.state_dict().values())


@needs_cuda
def test_ten_bad_steps_end_the_run_and_change_nothing(make_job: MakeJob, corpus: Corpus) -> None:
    job = make_job("bad", train=bad_corpus(corpus, set(corpus.utterances.ids)), max_steps=40)
    before = weights(job.model)
    with pytest.raises(UserError, match="not finite 10 steps in a row, up to step 9"):
        run(job)
    after = weights(job.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


# Memory


@needs_cuda
@pytest.mark.parametrize("when", ["before", "during"])
def test_batch_too_large_for_the_device_is_computed_in_parts(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Found before the first step, or where another process takes memory later."""
    decoder = {"channels": 256, "blocks": 6, "dropout": 0.0}
    still = {
        name: {**part, "dropout": 0.0} for name, part in MODEL.items() if isinstance(part, dict)
    }
    monkeypatch.setattr(f"{__name__}.MODEL", {**MODEL, **still, "decoder": decoder})
    how: dict[str, object] = {"max_steps": 6, "batch_size": 16, "ema_decay": 0.9}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole, undisturbed = run(make_job("whole", **how))
    room = 0.6 * torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    share = room / torch.cuda.get_device_properties(0).total_memory

    job, listener = make_job("squeezed", **how), Listener()
    tell = listener.log

    def log(values: dict[str, float], step: int) -> None:
        tell(values, step)
        if when == "during" and step == 2:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)

    listener.log = log  # type: ignore[method-assign]
    if when == "before":
        torch.cuda.set_per_process_memory_fraction(share)
    try:
        result = train(job, listener)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert undisturbed.step == result.step == 6
    assert undisturbed.units == result.units
    assert whole.told == []
    assert 1 <= len(listener.told) <= 3
    steps = {0} if when == "before" else {2, 3, 4, 5}
    assert listener.told[0].split(":")[0] in {f"out of memory at step {step}" for step in steps}
    for key in ("train/total_loss", "train/gradient_norm"):
        assert listener.curve(key) == pytest.approx(whole.curve(key), rel=5e-3), key


@needs_cuda
def test_memory_of_the_longest_batch_bounds_that_of_the_training(make_job: MakeJob) -> None:
    """What is found out before the first step is what the steps need."""
    job = make_job("bounded", max_steps=12, batch_size=16)
    trainer = trainer_of(job)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    fit_memory(job.task, trainer.state, trainer.loader, Listener().notify)
    scanned = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainer.run()
    assert torch.cuda.max_memory_allocated() <= 1.02 * scanned


# Precision


@needs_cuda
def test_auto_takes_16_bits_that_the_device_multiplies_fast() -> None:
    device = torch.device("cuda")
    major, _ = torch.cuda.get_device_capability(device)
    choice = choose_amp(device)
    assert choice.amp == ("bf16" if major >= 8 else "fp16" if major == 7 else "off")
    assert torch.cuda.get_device_name(device) in choice.reason
    assert (slow_amp(device, "bf16") == "") == (choice.amp == "bf16")
    assert slow_amp(device, "fp16") == ""


@needs_cuda
def test_gpu_that_is_not_used_is_named() -> None:
    line = unused_gpu(torch.device("cpu"))
    assert line.startswith(torch.cuda.get_device_name(0))
    assert "--set ray.gpu=true" in line
    assert unused_gpu(torch.device("cuda")) == ""


# Going on


@needs_cuda
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_stopped_run_goes_on_bit_for_bit_on_the_device(make_job: MakeJob, amp: str) -> None:
    """Across the change from given to searched durations at step 10, and across epochs."""
    how: dict[str, object] = {"amp": amp, "ema_decay": 0.9, "max_steps": 20, "validate_every": 5}
    whole, undisturbed = run(make_job("whole", **how))
    _, part = run(make_job("parts", **how), stop_after=7)
    assert (part.status, part.step) == ("stopped", 7)
    parts, resumed = run(make_job("parts", **how))
    assert (resumed.step, parts.steps) == (20, 13)
    assert resumed.best == undisturbed.best
    assert whole.curve("train/total_loss")[7:] == parts.curve("train/total_loss")
    assert undisturbed.checkpoint and resumed.checkpoint
    one, other = (
        read_state(c)["objectives"]["acoustic"]["weights"]
        for c in (undisturbed.checkpoint, resumed.checkpoint)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@needs_cuda
def test_run_of_the_device_goes_on_on_the_cpu(make_job: MakeJob) -> None:
    how: dict[str, object] = {"amp": "bf16", "max_steps": 12}
    run(make_job("moves", **how), stop_after=6)
    listener, result = run(make_job("moves", "cpu", **how))
    assert (result.step, listener.steps) == (12, 6)
    assert np.isfinite(listener.curve("train/total_loss")).all()

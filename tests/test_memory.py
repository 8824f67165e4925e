"""A batch that does not fit into memory is computed in parts; what is learned is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_fixtures import Job, Listener, make_job, run, train

from dimts.core.errors import UserError
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import AcousticBatch
from dimts.families.acoustic.settings import AcousticSettings
from dimts.training.loader import BatchLoader
from dimts.training.memory import (
    OutOfMemory,
    is_out_of_memory,
    read_parts,
    smaller_parts,
    write_parts,
)
from dimts.training.sampler import Position
from dimts.training.task import Losses, Moment
from dimts.training.trainer import Trainer
from dimts.training.validation import validation_losses

ROOT = Path(__file__).parents[1]
Settings = Callable[..., AcousticSettings]


ENOUGH_FOR = 0.65
"""Share of what a step wants that it gets."""


def trained(folder: Path, *limit: str) -> dict[str, Any]:
    """What `memory_fixtures` says of a run in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests"), str(ROOT)]),
        # What is limited is address space: one heap, and what is freed is given back.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, str(ROOT / "tests" / "memory_fixtures.py"), str(folder), *limit]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that has all the memory it wants."""
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.integration
@pytest.mark.parametrize(("when", "steps"), [("before", {0}), ("during", {2, 3})])
def test_batch_too_large_for_memory_is_computed_in_parts(
    when: str, steps: set[int], whole: dict[str, Any], tmp_path: Path
) -> None:
    """Found before the first step, or where memory went missing later."""
    parts = trained(tmp_path, when, str(int(ENOUGH_FOR * whole["wanted"])))
    assert whole["told"] == []
    assert 1 <= len(parts["told"]) <= 3, "said once for each time that batches are cut"
    assert "micro-batches from now on; training.accumulate=" in parts["told"][0]
    first = parts["told"][0].split(":")[0]
    assert first in {f"out of memory at step {step}" for step in steps}
    assert parts["step"] == whole["step"] == 4
    assert parts["units"] == whole["units"]
    assert parts["finite"]
    assert parts["losses"] == pytest.approx(whole["losses"], rel=1e-3)


def test_what_is_no_lack_of_memory_is_not_taken_for_one() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    text = (
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError("Cannot allocate memory"))


def test_error_of_another_kind_ends_the_run(settings: Settings) -> None:
    job = make_job(settings("broken"))
    job.model.decoder.out.register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="something else"):
        train(job, listener := Listener())
    assert listener.told == []


def fails(*_: object) -> None:
    raise RuntimeError("something else")


def has_no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_one_utterance_that_does_not_fit_is_said(settings: Settings) -> None:
    job = make_job(settings("huge"))
    job.model.decoder.out.register_forward_hook(has_no_memory)
    with pytest.raises(UserError, match=r"one utterance at a time; lower prepare\.max_seconds"):
        train(job, listener := Listener())
    assert [text.split(" micro")[0].rsplit(" ", 1)[1] for text in listener.told] == ["2", "4"]


def test_worker_of_several_without_memory_has_its_group_started_again_with_more_parts(
    settings: Settings,
) -> None:
    """The others wait for its gradients, so it cannot just try again."""
    config = settings("several", "training.validate_every=0", "training.max_steps=6")
    job, listener = make_job(config), Listener()
    trainer = Trainer(job.task, job.config, job.run_dir, listener)
    trainer.stepper.world_size = 2

    def fails_later(*_: object) -> None:
        if trainer.state.progress.step == 3:
            has_no_memory()

    hook = job.model.decoder.out.register_forward_hook(fails_later)
    with pytest.raises(OutOfMemory, match="rank 0 at step 3"):
        trainer.run()
    hook.remove()
    assert read_parts(config.run_dir) == 2
    assert listener.told == []
    again, result = run(config)
    assert result.step == 6
    assert "each batch is computed in 2 micro-batches, as before" in again.told


def test_parts_stay_after_an_interruption(settings: Settings) -> None:
    how = ("training.max_steps=6", "training.validate_every=0")
    config = settings("goes_on", *how)
    config.run_dir.mkdir(parents=True)
    write_parts(config.run_dir, 2)  # as a worker of several does before its group starts again
    run(config, stop_after=3)
    (config.run_dir / "micro_batches").unlink()
    _, resumed = run(config)
    _, asked = run(settings("asked", *how, "training.accumulate=2"))
    assert resumed.checkpoint and asked.checkpoint
    one, other = (
        (r.checkpoint / "model.safetensors").read_bytes() for r in (resumed, asked) if r.checkpoint
    )
    assert one == other


def loader(job: Job, rank: int, world_size: int) -> BatchLoader:
    return BatchLoader(job.task, job.config, rank, world_size, on_gpu=False)


def test_parts_are_at_most_the_utterances_of_a_worker(settings: Settings) -> None:
    job = make_job(settings("any", "training.batch_size=8"))
    smallest = min(len(batch) for batch in loader(job, 0, 1).sampler.batches(0))
    most = [loader(job, 0, workers).max_micro_batches() for workers in (1, 2, 4)]
    assert most == [smallest, smallest // 2, smallest // 4]
    assert [smaller_parts(parts, most=7) for parts in (1, 2, 4)] == [2, 4, 7]
    with pytest.raises(UserError, match="not memory enough for one utterance"):
        smaller_parts(7, most=7)


def test_batch_within_a_budget_has_the_same_loss_on_any_number_of_workers(
    settings: Settings,
) -> None:
    """Also on more of them than it has utterances, or in more parts; `batch_size` says nothing."""
    how = ("training.batch_budget=600", "training.batch_size=1", "training.accumulate=4")
    job = make_job(settings("budget", *how))
    module = job.task.objectives[0].module.eval()

    @torch.no_grad()
    def losses(world_size: int, n_micro: int) -> list[float]:
        ahead = [
            loader(job, r, world_size).ahead(Position(0, 0), n_micro) for r in range(world_size)
        ]
        of_steps = []
        for _ in range(loader(job, 0, 1).sampler.batches_of(0)):
            of_ranks = [next(one) for one in ahead]
            assert all(of_one.micro_batches for of_one in of_ranks)
            parts = [batch for of_one in of_ranks for batch in of_one.micro_batches]
            of_parts = [float(module(batch, Moment(0, 8))["total_loss"]) for batch in parts]
            of_steps.append(sum(of_parts))
        for one in ahead:
            one.close()
        return of_steps

    alone = losses(1, 1)
    assert losses(1, 3) == pytest.approx(alone, rel=1e-5)
    assert losses(5, 2) == pytest.approx(alone, rel=1e-5)


def test_parts_are_remembered_and_nonsense_is_not(tmp_path: Path) -> None:
    assert read_parts(tmp_path) == 1
    write_parts(tmp_path, 4)
    assert read_parts(tmp_path) == 4
    (tmp_path / "micro_batches").write_text("")
    assert read_parts(tmp_path) == 1


def test_longest_batch_is_of_the_longest_utterances(settings: Settings) -> None:
    """Of several workers and micro-batches, each sees a share with one of the longest."""
    job = make_job(settings("any"))
    frames = sorted(job.train.utterances.n_frames.tolist(), reverse=True)[:4]

    def longest(rank: int, world_size: int, n_micro: int) -> list[int]:
        [batch] = loader(job, rank, world_size).longest(n_micro)
        assert isinstance(batch, AcousticBatch)
        return batch.n_frames_B.tolist()

    assert longest(0, 1, 1) == frames
    assert sorted(longest(0, 2, 1) + longest(1, 2, 1), reverse=True) == frames
    assert longest(0, 1, 4) == frames[:1]


@pytest.mark.integration
def test_validation_that_does_not_fit_is_computed_in_parts(settings: Settings) -> None:
    corpus = open_data(settings("v")).val
    sizes: list[int] = []

    class Share(nn.Module):
        def __init__(self, most: int) -> None:
            super().__init__()
            self.most = most

        def forward(self, batch: AcousticBatch, moment: Moment) -> Losses:
            assert moment.step == moment.planned_steps, "validation is as at the end of a run"
            sizes.append(len(batch.n_frames_B))
            if sizes[-1] > self.most:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return {"total_loss": (batch.n_frames_B.sum() / batch.size).float()}

    def losses(most: int) -> dict[str, float]:
        return validation_losses(corpus, Share(most), Moment(3, 8), torch.device("cpu"))

    whole = losses(most=100)
    sizes.clear()
    parts = losses(most=1)
    assert whole == pytest.approx({"val/total_loss": 1.0})
    assert parts == pytest.approx(whole)
    assert sizes[-len(corpus) :] == [1] * len(corpus) and sizes[0] > 1
    with pytest.raises(UserError, match="not memory enough for one utterance"):
        losses(most=0)

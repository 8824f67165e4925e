"""What every family keeps: it learns, goes on bit for bit, fits memory and freezes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_fixtures import CASES, KILLED, Build, Case, Listener
from safetensors.torch import load_file

from dimts.bundles.bundle import WEIGHTS, resolve_bundle
from dimts.families.registry import get_family
from dimts.launch.training_run import run_training
from dimts.training.checkpoint import LATEST, find_latest
from dimts.training.loader import BatchLoader
from dimts.training.sampler import Position

pytest_plugins = ("family_fixtures",)

ROOT = Path(__file__).parents[2]


def weights(run_dir: Path, pointer: str = LATEST) -> dict[str, torch.Tensor]:
    latest = find_latest(run_dir) if pointer == LATEST else resolve_bundle(run_dir / pointer)
    assert latest is not None
    return load_file(latest / WEIGHTS)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_loss_falls(build: Build, case: Case) -> None:
    listener = Listener()
    run_training(build("training.max_steps=60").launch().settings, listener)
    losses = [v[case.loss] for _, v in sorted(listener.values.items()) if case.loss in v]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_run_that_was_stopped_goes_on_bit_for_bit(build: Build) -> None:
    whole, parts = Listener(), Listener(stop_after=5)
    run_training(build("run.name=whole").launch().settings, whole)
    settings = build("run.name=parts").launch().settings
    run_training(settings, parts)
    assert find_latest(settings.run_dir).name.endswith("step5")  # type: ignore[union-attr]
    rest = Listener()
    run_training(settings, rest)
    assert same(weights(settings.run_dir), weights(settings.run_dir.parent / "whole"))
    timed = ("per_second", "data_wait")
    for step, values in rest.values.items():
        for key, value in values.items():
            assert any(part in key for part in timed) or value == whole.values[step][key], key


@pytest.mark.parametrize("family", KILLED, indirect=True)
def test_run_that_was_killed_goes_on_bit_for_bit(build: Build, file: Path) -> None:
    run_training(build("run.name=whole").launch().settings, Listener())
    run_dir = build().run.run_dir
    command = [sys.executable, "jobs/train.py", "--config", str(file)]
    # Slow enough to be killed between two checkpoints, in the middle of an epoch.
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list(run_dir.glob("checkpoint_*_step4")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_training(build().launch().settings, Listener())
    assert same(weights(run_dir), weights(run_dir.parent / "whole"))


def one_of_two(rank: int, settings: Any, meeting: Path, stop_after: int) -> None:
    """A worker of a run on two."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2
    )
    run_training(settings, Listener(stop_after))
    torch.distributed.destroy_process_group()
    os._exit(0)  # as Ray ends its workers; threads of gloo may abort the end of an interpreter


@pytest.mark.integration
@pytest.mark.parametrize(
    "family",
    # Of the acoustic one tests/test_resume.py and tests/test_smoke.py hold it each time.
    [pytest.param(name, marks=pytest.mark.slow) if name != "toy" else name for name in CASES],
    indirect=True,
)
def test_two_workers_go_on_bit_for_bit(build: Build, tmp_path: Path) -> None:
    """Without Ray, which takes ten times as long."""
    two = ("ray.workers=2", "ray.cpus_per_worker=1", "training.max_steps=40")
    whole, parts = build("run.name=whole", *two), build("run.name=parts", *two)
    get_family(whole.family).prepare_inputs(whole.launch().settings)
    for number, (config, stop_after) in enumerate(((whole, 99), (parts, 13), (parts, 99))):
        torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            one_of_two,
            (config.launch().settings, tmp_path / f"meeting{number}", stop_after),
            nprocs=2,
        )
        latest = find_latest(config.run.run_dir)
        assert latest is not None
        assert latest.name.endswith(f"step{min(stop_after, 40)}")
    assert same(weights(parts.run.run_dir), weights(whole.run.run_dir))


def test_no_batch_is_longer_than_the_longest(build: Build) -> None:
    """What is tried before the first step is the most that memory will be asked for."""
    config = build()
    settings = config.launch().settings
    task = get_family(config.family).task(settings, torch.device("cpu"))
    loader = BatchLoader(task, settings.training, rank=0, world_size=1, on_gpu=False)

    def size(batch: Any) -> int:
        return sum(v.numel() for v in vars(batch).values() if isinstance(v, torch.Tensor))

    longest = max(map(size, loader.longest(n_micro=1)))
    batches = loader.ahead(Position(0, 0), n_micro=1)
    try:
        for _ in range(20):
            (batch,) = next(batches).micro_batches
            assert size(batch) <= longest
    finally:
        batches.close()


def test_crops_do_not_depend_on_how_a_batch_is_shared_out(build: Build) -> None:
    settings = build().launch().settings
    data = get_family(settings.family).task(settings, torch.device("cpu")).train
    together = data.collate([4, 5], seed=(1, 2, 3))
    for row, index in enumerate((4, 5)):
        alone = data.collate([index], [4, 5], seed=(1, 2, 3))
        assert alone.size == together.size
        for name, value in vars(alone).items():
            whole = getattr(together, name)
            if isinstance(value, torch.Tensor):
                part = tuple(slice(n) for n in value.shape[1:])
                assert torch.equal(value[0], whole[row][part]), name


def test_what_is_frozen_keeps_its_bits(build: Build, case: Case) -> None:
    first = build(*case.freeze, "run.name=first", "training.max_steps=1").launch().settings
    last = build(*case.freeze, "run.name=last").launch().settings
    for settings in (first, last):
        run_training(settings, Listener())
    before, after = weights(first.run_dir), weights(last.run_dir)
    frozen = {name for name in before if name.startswith(case.frozen)}
    assert frozen
    for name in frozen:
        assert torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in before.keys() - frozen)

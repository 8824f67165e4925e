"""A run that was stopped, or died, goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_fixtures import Listener, make_job, run

from dimts.training.checkpoint import read_state
from dimts.training.claim import CLAIM
from dimts.training.job import Result
from dimts.training.loop import train
from dimts.training.run import run_training
from dimts.training.settings import RunSettings
from jobs.voice_config import VoiceConfig

Settings = Callable[..., RunSettings]
DROPOUT = ("model.encoder.dropout=0.1", "model.duration.dropout=0.1", "model.decoder.dropout=0.1")


def weights(result: Result) -> bytes:
    assert result.checkpoint is not None
    return (result.checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "how",
    [
        (),
        ("training.amp=bf16", "training.ema_decay=0.9"),
        ("training.accumulate=2", "training.ema_decay=0.9"),
    ],
    ids=["float32", "bf16-average", "accumulate-average"],
)
@pytest.mark.parametrize(
    "stops", [(10,), (13,), (4, 3, 9)], ids=["at the change", "after it", "thrice"]
)
def test_stopped_run_resumes_bit_for_bit(
    settings: Settings, how: tuple[str, ...], stops: tuple[int, ...]
) -> None:
    """Across the change from fixed to searched durations at step 10, and across epochs."""
    how = (*how, *DROPOUT, "training.max_steps=20", "training.aligner.fixed_share=0.5")
    undisturbed, whole = run(settings("whole", *how))
    values: dict[int, dict[str, float]] = {}
    for stop in stops:
        listener, part = run(settings("parts", *how), stop_after=stop)
        assert part.status == "stopped"
        values |= listener.values
    listener, resumed = run(settings("parts", *how))
    values |= listener.values

    assert resumed.status == whole.status == "finished"
    assert resumed.step == sum(stops) + listener.steps == 20
    assert weights(resumed) == weights(whole)
    assert resumed.best == whole.best
    assert state(resumed) == state(whole)
    for step, expected in undisturbed.values.items():
        timeless = {k: v for k, v in expected.items() if "second" not in k and "wait" not in k}
        assert timeless.items() <= values[step].items(), step


def state(result: Result) -> dict[str, object]:
    """A trainer's state in values that compare."""
    assert result.checkpoint is not None
    return {"state": plain(read_state(result.checkpoint))}


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize("stops", [(5,), (1, 6), (3, 3, 3)], ids=["once", "twice", "thrice"])
def test_rehearsal_goes_on_bit_for_bit(
    adapted: Callable[..., VoiceConfig], stops: tuple[int, ...]
) -> None:
    """With a base, frozen rows, an average, and across epochs of the rehearsed corpus."""
    how = (
        *DROPOUT, "training.max_steps=16", "training.validate_every=8",
        "training.aligner.fixed_share=0.4", "training.ema_decay=0.9", "base.rehearsal_share=0.7",
        "model.freeze_until_index=n_base",
    )  # fmt: skip

    def go(name: str, stop_after: int | None = None) -> tuple[Listener, Result]:
        listener = Listener(stop_after)
        return listener, run_training(adapted(*how, f"run.name={name}").launch().settings, listener)

    undisturbed, whole = go("whole")
    values: dict[int, dict[str, float]] = {}
    for stop in stops:
        listener, part = go("parts", stop)
        assert part.status == "stopped"
        values |= listener.values
    listener, resumed = go("parts")
    values |= listener.values
    assert resumed.step == sum(stops) + listener.steps == 16
    assert weights(resumed) == weights(whole)
    assert state(resumed) == state(whole)
    for step, expected in undisturbed.values.items():
        timeless = {k: v for k, v in expected.items() if "second" not in k and "wait" not in k}
        assert timeless.items() <= values[step].items(), step


class Crash(Listener):
    """Dies at a step, without a chance to save."""

    def log(self, values: dict[str, float], step: int) -> None:
        if step == 13:
            raise ConnectionError("the machine is gone")


def test_crashed_run_repeats_the_steps_since_its_checkpoint(settings: Settings) -> None:
    how = (
        *DROPOUT, "training.max_steps=20", "training.checkpoint_every=5",
        "training.validate_every=10",
    )  # fmt: skip
    _, whole = run(settings("whole", *how))
    with pytest.raises(ConnectionError):
        train(make_job(settings("crashed", *how)), Crash())
    listener, resumed = run(settings("crashed", *how))
    assert listener.steps == 10, "the last checkpoint was at step 10"
    assert weights(resumed) == weights(whole)


def test_run_that_has_finished_does_nothing_more(settings: Settings) -> None:
    _, done = run(settings("once"))
    assert done.checkpoint is not None
    folder = done.checkpoint.parent

    def changes() -> dict[Path, int]:
        return {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if p.name != CLAIM}

    before = changes()
    listener, again = run(settings("once"))
    assert (again.status, again.step, again.best) == ("finished", done.step, done.best)
    assert listener.steps == 0
    assert changes() == before


def test_seed_decides_the_run(settings: Settings) -> None:
    short = "training.max_steps=3"
    one, same, other = (
        weights(run(settings(name, short, f"training.seed={seed}"))[1])
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one != other
    assert one == same

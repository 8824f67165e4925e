"""A run that was stopped, or died, goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_fixtures import Listener, make_job, run, train

from dimts.bundles.bundle import resolve_bundle
from dimts.commands.voice_config import VoiceConfig
from dimts.families.acoustic.family import FAMILY
from dimts.families.acoustic.settings import AcousticSettings
from dimts.launch.training_run import run_training
from dimts.storage.pointer import read_pointer, write_pointer
from dimts.training import checkpoint
from dimts.training.checkpoint import BEST, LATEST, read_state
from dimts.training.ownership import CLAIM
from dimts.training.progress import Result

Settings = Callable[..., AcousticSettings]
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
        ("training.batch_budget=700", "training.accumulate=2"),
    ],
    ids=["float32", "bf16-average", "accumulate-average", "budget"],
)
def test_stopped_run_resumes_bit_for_bit(settings: Settings, how: tuple[str, ...]) -> None:
    """At the change from fixed to searched durations at step 10, after it, and thrice."""
    how = (*how, *DROPOUT, "training.max_steps=20", "training.aligner.fixed_share=0.5")
    undisturbed, whole = run(settings("whole", *how))
    for stops in ((10,), (13,), (4, 3, 9)):
        values: dict[int, dict[str, float]] = {}
        for stop in stops:
            listener, part = run(settings(f"{len(stops)}x{stops[0]}", *how), stop_after=stop)
            assert part.status == "stopped"
            values |= listener.values
        listener, resumed = run(settings(f"{len(stops)}x{stops[0]}", *how))
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


def test_rehearsal_goes_on_bit_for_bit(adapted: Callable[..., VoiceConfig]) -> None:
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
    for stops in ((5,), (3, 3, 3)):
        values: dict[int, dict[str, float]] = {}
        for stop in stops:
            listener, part = go(f"parts{len(stops)}", stop)
            assert part.status == "stopped"
            values |= listener.values
        listener, resumed = go(f"parts{len(stops)}")
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


def pointers(settings: AcousticSettings) -> dict[str, str]:
    return {name: read_pointer(settings.run_dir / name) for name in (LATEST, BEST)}


def test_last_weights_are_validated_whatever_was_saved_before(settings: Settings) -> None:
    how = ("training.max_steps=6", "training.validate_every=100", "training.checkpoint_every=3")
    listener, whole = run(settings("whole", *how))
    assert whole.best == {k: v for k, v in listener.values[6].items() if k.startswith("val/")}
    last = ("training.max_steps=6", "training.validate_every=100")
    _, stopped = run(settings("stopped", *last), stop_after=6)
    assert (stopped.status, stopped.step, stopped.best) == ("stopped", 6, {})
    _, resumed = run(settings("stopped", *last))
    assert resumed.status == "finished"
    assert resumed.best["val/total_loss"] == pytest.approx(whole.best["val/total_loss"])
    assert pointers(settings("stopped", *last)) == pointers(settings("whole", *how))
    listener, _ = run(settings("stopped", *last))
    assert not listener.values, "there is nothing left to do"


@pytest.mark.parametrize("validate_every", [2, 0])
def test_kill_before_the_pointers_are_set_does_not_lose_the_best(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, validate_every: int
) -> None:
    how = (
        "training.max_steps=6", f"training.validate_every={validate_every}",
        "training.checkpoint_every=2", "training.keep_checkpoints=1",
        "training.optimizer.learning_rate=0.01",
    )  # fmt: skip
    _, whole = run(settings("whole", *how))

    def killed(file: Path, name: str) -> None:
        if name.endswith("_step6"):
            raise KeyboardInterrupt
        write_pointer(file, name)

    monkeypatch.setattr(checkpoint, "write_pointer", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings("killed", *how))
    monkeypatch.setattr(checkpoint, "write_pointer", write_pointer)
    _, resumed = run(settings("killed", *how))
    assert pointers(settings("killed", *how)) == pointers(settings("whole", *how))
    assert resumed.best == whole.best


def test_damaged_checkpoint_does_not_count_as_one_that_is_kept(settings: Settings) -> None:
    how = (
        "training.max_steps=30", "training.checkpoint_every=6", "training.validate_every=0",
        "training.keep_checkpoints=2",
    )  # fmt: skip
    run(settings("run", *how), stop_after=8)
    whole = settings("run", *how).run_dir / "checkpoint_epoch1_step8"
    for step in (10, 11):
        shutil.copytree(whole, whole.with_name(f"checkpoint_epoch1_step{step}"))
        (whole.with_name(f"checkpoint_epoch1_step{step}") / "model.safetensors").write_bytes(b"")
    listener, resumed = run(settings("run", *how), stop_after=1)
    assert sum("going back" in line for line in listener.told) == 2
    assert resumed.checkpoint and resumed.checkpoint.exists()
    _, again = run(settings("run", *how), stop_after=1)
    assert again.step == resumed.step + 1 == 10


def worker(
    rank: int, world_size: int, settings: AcousticSettings, meeting: Path, stop: int
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    run_training(settings, Listener(stop or None))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_three_workers_resume_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    """The sum of three depends on their order, that of two does not."""

    def on_three(name: str, stop: int = 0) -> bytes:
        how = settings(name, "training.max_steps=12", "training.batch_size=6")
        FAMILY.prepare_inputs(how)
        meeting = tmp_path / f"meeting-{name}-{stop}"
        torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            worker, (3, how, meeting, stop), nprocs=3
        )
        return (resolve_bundle(how.run_dir / LATEST) / "model.safetensors").read_bytes()

    on_three("parts", stop=6)
    assert on_three("parts") == on_three("whole")

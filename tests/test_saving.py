"""A run's folder when things go wrong: full disks, two processes, states of another training."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from training_fixtures import Listener, make_job, poisoned, run, train

from dimts.bundles.bundle import BundleError, sha256
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import Diverged, UserError
from dimts.core.lock import locked
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.settings import AcousticSettings
from dimts.launch.start import start_run
from dimts.tracking.event_log import append_event, follow_events
from dimts.training.checkpoint import BEST, LATEST, TRAINER_STATE, find_latest
from dimts.training.ownership import Claim, RunTakenOver

Settings = Callable[..., AcousticSettings]
HOW = ("training.max_steps=12", "training.checkpoint_every=2", "training.validate_every=4")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("to make a small disk takes the rights of root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return ballast


class FillsTheDisk(Listener):
    """Someone else writes until nothing is left, and removes it again."""

    def __init__(self, disk: Path, full_at: int, free_at: int) -> None:
        super().__init__()
        self._disk, self._full_at, self._free_at = disk, full_at, free_at
        self.while_full: Path | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if "train/total_loss" not in values:
            return
        if step == self._full_at:
            fill(self._disk)
        if step == self._free_at:
            self.while_full = find_latest(self._disk / "full")
            (self._disk / "ballast").unlink()


def weights(checkpoint: Path | None) -> bytes:
    assert checkpoint is not None
    return (checkpoint / "model.safetensors").read_bytes()


# Full disks


def test_full_disk_costs_checkpoints_and_not_the_run(settings: Settings, small_disk: Path) -> None:
    _, undisturbed = run(settings("undisturbed", *HOW))
    config = settings("full", *HOW, f"run.storage={small_disk}")
    listener = FillsTheDisk(small_disk, full_at=5, free_at=9)
    result = train(make_job(config), listener)
    assert len(listener.told) == 2
    for step, told in zip((6, 8), listener.told, strict=True):
        assert told.startswith(f"{config.run_dir}: no checkpoint of step {step}: ")
        assert "No space left on device" in told
        assert told.endswith("; training goes on")
    assert listener.while_full is not None
    assert listener.while_full.name.endswith("_step4")
    assert load_bundle(config.run_dir / BEST).manifest.step in (4, 12)
    assert not list(config.run_dir.glob(".*")), "nothing half-written is left"
    assert (result.status, result.step) == ("finished", 12)
    assert weights(result.checkpoint) == weights(undisturbed.checkpoint)


def test_best_is_what_is_there_although_a_better_one_found_no_room(
    settings: Settings, small_disk: Path
) -> None:
    config = settings("full", *HOW, f"run.storage={small_disk}")
    listener = FillsTheDisk(small_disk, full_at=7, free_at=9)
    result = train(make_job(config), listener)
    losses = {s: v["val/total_loss"] for s, v in listener.values.items() if "val/total_loss" in v}
    assert losses[8] < losses[4], "step 8 would have been the best at its time"
    best = load_bundle(config.run_dir / BEST).manifest
    assert best.step != 8
    assert result.best["val/total_loss"] == losses[best.step]


def test_run_that_cannot_save_its_end_says_so_and_goes_on_later(
    settings: Settings, small_disk: Path
) -> None:
    _, undisturbed = run(settings("undisturbed", *HOW))
    config = settings("full", *HOW, f"run.storage={small_disk}")
    with pytest.raises(UserError, match=r"no checkpoint of step 12: .*; make room and start") as e:
        train(make_job(config), FillsTheDisk(small_disk, full_at=5, free_at=99))
    assert len(str(e.value).splitlines()) == 1
    (small_disk / "ballast").unlink()
    listener, result = run(config)
    assert listener.steps == 8, "it went on from step 4"
    assert weights(result.checkpoint) == weights(undisturbed.checkpoint)


def test_line_that_was_cut_off_costs_one_line(tmp_path: Path) -> None:
    """By a full disk, or a kill in the middle of a write."""
    append_event(tmp_path, {"step": 1, "values": {}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "val')
    append_event(tmp_path, {"step": 3, "values": {}})
    events = follow_events(tmp_path / "metrics.jsonl", 0, lambda: True)
    assert [event["step"] for event in events] == [1, 3]


def test_line_for_which_half_the_room_is_left_is_not_taken_for_written(tmp_path: Path) -> None:
    append_event(tmp_path, {"step": 1, "values": {}})
    file = tmp_path / "metrics.jsonl"
    size, limit = file.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limit[1]))
        with pytest.raises(OSError, match="No space left"):
            append_event(tmp_path, {"step": 2, "values": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert file.stat().st_size == size


# Two processes


class TakenOver(Listener):
    """Another process takes up the run after a step."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._run_dir = run_dir
        self.left: dict[Path, int] = {}

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if step == 5:
            Claim(self._run_dir)
            self.left = contents(self._run_dir)


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_run_that_another_process_goes_on_with_is_left_alone(settings: Settings) -> None:
    config = settings("taken", *HOW)
    listener = TakenOver(config.run_dir)
    with pytest.raises(RunTakenOver, match="another process goes on with this run"):
        train(make_job(config), listener)
    assert listener.steps == 5
    assert contents(config.run_dir) == listener.left
    _, undisturbed = run(settings("undisturbed", *HOW))
    _, result = run(config)
    assert weights(result.checkpoint) == weights(undisturbed.checkpoint)


def test_checkpoint_of_a_run_that_is_taken_over_meanwhile_is_not_published(
    settings: Settings,
) -> None:
    config = settings("taken", "training.max_steps=2", "training.validate_every=0")
    job = make_job(config)

    def write(folder: Path, *rest: object) -> None:
        job.task.write_bundle(folder, *rest)  # type: ignore[arg-type]
        Claim(config.run_dir)

    with pytest.raises(RunTakenOver):
        train(job.of(write_bundle=write), Listener())
    assert [path.name for path in config.run_dir.iterdir()] == ["claim"]


def test_run_whose_folder_was_removed_ends(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "run")
    claim.check()
    (tmp_path / "run" / "claim").unlink()
    with pytest.raises(RunTakenOver):
        claim.check()


def test_two_starts_of_a_run_are_not_one_run(voice: Callable[..., VoiceConfig]) -> None:
    config = voice("training.max_steps=2")
    with locked(config.run.run_dir / "lock", ""):
        message = r"run tiny is being trained already, by process \d+; wait for it"
        with pytest.raises(UserError, match=message):
            start_run(config.launch(), config.ray)
    assert start_run(config.launch(), config.ray)["status"] == "finished"


def test_leftovers_of_writes_that_were_killed_go(settings: Settings) -> None:
    config = settings("left", *HOW)
    partial = config.run_dir / ".checkpoint_epoch0_step2.123"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half of the")
    (config.run_dir / ".checkpoint_latest.123").write_text("half")
    run(config)
    assert not list(config.run_dir.glob(".*"))
    assert (config.run_dir / LATEST).exists()


# What goes on


def test_state_of_another_training_is_refused_in_one_line(settings: Settings) -> None:
    _, done = run(settings("other", *HOW))
    assert done.checkpoint is not None
    for content in ({}, {"weights": {}, "progress": 3}, {"weights": None}):
        state, manifest = done.checkpoint / TRAINER_STATE, done.checkpoint / "manifest.json"
        torch.save(content, state)
        facts = json.loads(manifest.read_text())
        facts["sha256"][TRAINER_STATE] = sha256(state)
        manifest.write_text(json.dumps(facts))
        with pytest.raises(BundleError) as caught:
            train(make_job(settings("other", *HOW)), Listener())
        assert len(str(caught.value).splitlines()) == 1


def test_bad_steps_before_an_interruption_count(settings: Settings) -> None:
    config = settings("bad", "training.max_steps=40", "training.validate_every=0")
    everything = poisoned(set(open_data(config).train.utterances.ids))
    train(make_job(config, everything), Listener(stop_after=6))
    with pytest.raises(Diverged, match="not finite 10 steps in a row, up to step 9"):
        train(make_job(config, everything), Listener())


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_line_of_the_record_is_of_all_its_steps_after_an_interruption(
    settings: Settings, stop: int
) -> None:
    how = ("training.max_steps=8", "training.log_every=4", "training.validate_every=0")
    undisturbed, _ = run(settings("undisturbed", *how))
    first, _ = run(settings("stopped", *how), stop_after=stop)
    second, _ = run(settings("stopped", *how))
    together = {**first.values, **second.values}
    for step in (4, 8):
        for key in ("train/total_loss", "train/gradient_norm", "train/frames"):
            assert together[step][key] == undisturbed.values[step][key], (step, key)

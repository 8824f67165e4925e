"""What a worker does for the copy of its run: claims, what was not sent, a storage that is away."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_fixtures import S3, names, until

from dimts.bundles.bundle import WEIGHTS
from dimts.commands.voice_config import VoiceConfig
from dimts.launch.local_run_folder import RemoteRun, local_run_folder
from dimts.launch.run_folder import acquire, is_last_start
from dimts.launch.stopping import STOP_FILE, stop_requested, stop_run
from dimts.storage import paths as places
from dimts.storage.paths import StorageError, StoragePath, folder_here
from dimts.storage.pointer import write_pointer
from dimts.training.checkpoint import LATEST
from dimts.training.ownership import CLAIM, Claim, RunTakenOver

if TYPE_CHECKING:
    pass

pytest_plugins = ("s3_fixtures",)

Voice = Callable[..., VoiceConfig]


def test_whoever_took_up_the_run_last_has_it(bucket: StoragePath, tmp_path: Path) -> None:
    place = bucket / "runs" / "claimed"
    first, second = (RemoteRun(tmp_path / name, place) for name in ("first", "second"))
    first.begin()
    ours = Claim(tmp_path / "first")
    first.start()
    until(lambda: (place / CLAIM).entry())
    (tmp_path / "first" / "kept").write_text("1")
    until(lambda: (place / "kept").entry())
    second.begin()
    assert (tmp_path / "second" / "kept").read_text() == "1"
    theirs = Claim(tmp_path / "second")
    second.start()

    def is_superseded() -> bool:
        try:
            ours.check()
        except RunTakenOver:
            return True
        return False

    until(is_superseded)
    (tmp_path / "first" / "late").touch()
    first.end()
    second.end()
    theirs.check()
    assert names(place) == [CLAIM, "kept"]


def test_what_was_not_sent_is_sent_by_the_next_start(bucket: StoragePath, tmp_path: Path) -> None:
    place, folder = bucket / "runs" / "cut", tmp_path / "first"
    first = RemoteRun(folder, place)
    first.begin()
    Claim(folder)
    (folder / "kept").write_text("old")
    first.end()
    (folder / "kept").write_text("new")  # and then it was killed
    again = RemoteRun(folder, place)
    again.begin()
    assert (folder / "kept").read_text() == "new"
    again.end()
    assert (place / "kept").read_text() == "new"
    other = RemoteRun(tmp_path / "second", place)
    other.begin()
    Claim(tmp_path / "second")
    other.end()
    (folder / "kept").write_text("too late")
    late = RemoteRun(folder, place)
    late.begin()
    assert (folder / "kept").read_text() == "new"


def test_what_was_never_sent_is_sent_by_the_next_start(bucket: StoragePath, tmp_path: Path) -> None:
    """As where the storage went away before the training's own claim could be sent."""
    place = bucket / "runs" / "unsent"
    RemoteRun(tmp_path, place).begin()
    Claim(tmp_path)
    (tmp_path / "trained").write_text("for hours")
    again = RemoteRun(tmp_path, place)
    again.begin()
    assert (place / "trained").read_text() == "for hours"


def test_run_that_was_superseded_does_not_send_what_is_older(
    bucket: StoragePath, tmp_path: Path
) -> None:
    place, folder = bucket / "runs" / "older", tmp_path / "first"
    first = RemoteRun(folder, place)
    first.begin()
    Claim(folder)
    first.start()
    (folder / "kept").write_text("old")
    until(lambda: (place / "kept").entry())
    second = RemoteRun(tmp_path / "second", place)
    second.begin()
    (tmp_path / "second" / "kept").write_text("newer")
    second.end()
    first.end()  # and finds out
    RemoteRun(folder, place).begin()
    assert (folder / "kept").read_text() == (place / "kept").read_text() == "newer"


def test_folder_that_is_gone_takes_nothing_with_it(bucket: StoragePath, tmp_path: Path) -> None:
    place, folder = bucket / "runs" / "gone", tmp_path / "run"
    run = RemoteRun(folder, place)
    run.begin()
    (folder / "checkpoint_1").mkdir()
    (folder / "checkpoint_1" / WEIGHTS).write_text("w")
    write_pointer(folder / LATEST, "checkpoint_1")
    run.end(0)
    before = names(place)
    assert f"checkpoint_1/{WEIGHTS}" in before
    shutil.rmtree(folder / "checkpoint_1")
    (folder / LATEST).unlink()
    run.end(0)
    assert names(place) == before
    shutil.rmtree(folder)
    run.end(0)
    assert names(place) == before


def silence(s3: S3, seconds: float) -> None:
    """From now on, for a while."""
    os.kill(s3.process.pid, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (s3.process.pid, signal.SIGCONT)).start()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that does not answer is soon given up."""
    monkeypatch.setattr(places, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(places, "ATTEMPTS", 1)


@pytest.mark.integration
def test_run_that_the_storage_failed_sends_what_it_has_when_it_is_back(
    s3: S3, bucket: StoragePath, hasty: None, voice: Voice
) -> None:
    """As where held-out figures ask it for the base, after days of training."""
    first = voice("run.name=patient", f"run.storage={bucket}/runs").launch()
    acquire(first)

    def train() -> None:
        with local_run_folder(first) as (launch, _):
            (launch.run_dir / "trained").write_text("for days")
            silence(s3, 6)  # which is longer than one try takes
            (bucket / "base").read_bytes()

    with pytest.raises(StorageError, match=f"^{bucket}/base: "):
        train()
    assert (bucket / "runs" / "patient" / "trained").read_text() == "for days"


def test_folder_that_may_have_more_than_a_storage_that_is_away_is_named(
    s3: S3, bucket: StoragePath, hasty: None, voice: Voice
) -> None:
    first = voice("run.name=named", f"run.storage={bucket}/runs").launch()
    acquire(first)
    folder = folder_here(bucket / "runs" / "named", "runs", "worker")
    for known in (False, True):
        with s3.silent(), pytest.raises(StorageError) as caught, local_run_folder(first):
            pytest.fail("nobody answered")
        assert (f"{folder} on {platform.node()} may have what" in str(caught.value)) is known
        with local_run_folder(first):
            pass


def test_start_elsewhere_is_the_one_that_goes_on(bucket: StoragePath, voice: Voice) -> None:
    config = voice("run.name=twice", f"run.storage={bucket}/runs")
    place = bucket / "runs" / "twice"
    first, second = (config.launch() for _ in range(2))
    acquire(first)
    with local_run_folder(first) as (launch, _):
        assert launch.run_dir == folder_here(place, "runs", "worker")
    acquire(second)
    with pytest.raises(RunTakenOver), local_run_folder(first):
        pytest.fail("a group that is started again took the run back")
    stop_run(first)
    assert not (place / STOP_FILE).entry()
    assert not is_last_start(first)
    with local_run_folder(second):
        stop_run(second)
    assert (place / STOP_FILE).entry()


def test_wish_to_stop_reaches_the_machine_that_trains(bucket: StoragePath, tmp_path: Path) -> None:
    place = bucket / "runs" / "wished"
    run = RemoteRun(tmp_path, place)
    run.begin()
    run.start()
    (place / STOP_FILE).write_bytes(b"")
    until(lambda: stop_requested(tmp_path))
    run.end()

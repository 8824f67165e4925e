"""Groups of workers that Ray starts again: for as long as that may help, and no longer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from faults.claims import read_claim
from faults.grounds import small_disk
from s3_fixtures import S3, put
from test_train_job import TrainJob, weights

from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.launch.names import CONFIG_FILE, RESULT
from dimts.launch.start import start_run
from dimts.storage.paths import StorageError, StoragePath, folder_here
from dimts.storage.pointer import write_pointer
from dimts.tracking.event_log import EVENTS
from dimts.training.checkpoint import LATEST
from dimts.training.ownership import Claim

pytest_plugins = ("s3_fixtures",)

Voice = Callable[..., VoiceConfig]
ONE_WORKER = ("ray.workers=1", "ray.cpus_per_worker=1")
WAIT_S = 90.0


def until(happened: Callable[[], object]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


@contextmanager
def meanwhile(happened: Callable[[], object], fault: Callable[[], object]) -> Iterator[None]:
    """Inside, a fault happens as soon as something else has."""
    done: list[object] = []

    def wait() -> None:
        until(happened)
        done.append(fault())

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()
    assert done


def trained_steps(run_dir: Path) -> list[int]:
    if not (run_dir / EVENTS).exists():
        return []
    lines = (run_dir / EVENTS).read_text(encoding="utf-8").splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [e["step"] for e in events if "train/total_loss" in e.get("values", {})]


@pytest.mark.slow
def test_run_taken_up_by_a_worker_that_was_given_up_for_dead_goes_on(
    ray_session: None, voice: Voice
) -> None:
    """That one ends at its next step; nobody started it again."""
    how = ("training.max_steps=200", "training.checkpoint_every=20", "training.log_every=1")
    undisturbed = voice(*how, "run.name=undisturbed")
    start_run(undisturbed.launch(), undisturbed.ray)
    config = voice(*how, *ONE_WORKER, "run.name=late")
    folder = config.run.run_dir
    with meanwhile(lambda: trained_steps(folder), lambda: Claim(folder)):
        assert start_run(config.launch(), config.ray)["step"] == 200
    assert "the workers died, and were started again" in (folder / EVENTS).read_text()
    assert weights(folder) == weights(undisturbed.run.run_dir)


@pytest.mark.slow
def test_run_whose_folder_a_person_removes_ends(ray_session: None, voice: Voice) -> None:
    config = voice("training.max_steps=5000", "training.log_every=1", *ONE_WORKER)
    folder = config.run.run_dir
    with (
        meanwhile(lambda: trained_steps(folder), partial(shutil.rmtree, folder)),
        pytest.raises(UserError, match="the run did not end"),
    ):
        start_run(config.launch(), config.ray)


@pytest.mark.slow
def test_failure_on_a_full_disk_is_told(ray_session: None, voice: Voice, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small"):
        config = voice(
            "training.max_steps=200", "training.validate_every=0", "training.log_every=1",
            f"run.storage={tmp_path}/small", *ONE_WORKER,
        )  # fmt: skip
        folder = config.run.run_dir
        folder.mkdir()
        (folder / RESULT).write_text('{"status": "finished"}')
        with (
            meanwhile(lambda: trained_steps(folder), lambda: fill(tmp_path / "small")),
            pytest.raises(UserError, match=r"cannot be written|No space left"),
        ):
            start_run(config.launch(), config.ray)


def fill(disk: Path) -> Path:
    with suppress(OSError), (disk / "ballast").open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    return disk


def test_result_of_an_earlier_start_is_not_that_of_one_that_fails(
    voice: Voice, tmp_path: Path
) -> None:
    config = voice(f"prepare.features={tmp_path}/none")
    config.run.run_dir.mkdir(parents=True)
    (config.run.run_dir / RESULT).write_text('{"status": "finished"}')
    with pytest.raises(UserError, match="no such folder of features"):
        start_run(config.launch(), config.ray)
    assert not (config.run.run_dir / RESULT).exists()


@pytest.mark.slow
def test_features_that_the_storage_does_not_give_are_asked_for_again(
    s3: S3, bucket: StoragePath, voice: Voice, voice_file: Path, tmp_path: Path
) -> None:
    there = put(Path(str(voice().prepare.features)), bucket / "features")
    how = ("training.max_steps=8", f"run.storage={tmp_path}", "run.name=back", *ONE_WORKER)
    events = tmp_path / "back" / EVENTS
    with s3.silent():
        job = TrainJob(voice_file, *how, f"prepare.features={there}")
        until(lambda: job.process.poll() is not None or told(events, f"{there}/manifest.json: "))
    code, out, err = job.result()
    assert code == 0, err
    assert f"{there}/manifest.json: " in out
    assert "the workers died, and were started again" in out
    assert "finished at step 8" in out


def told(events: Path, text: str) -> bool:
    return events.exists() and text in events.read_text(encoding="utf-8")


def test_workers_that_die_are_started_again_as_long_as_the_run_comes_further(
    tmp_path: Path,
) -> None:
    from ray.train import WorkerGroupError

    from dimts.launch.ray_train import fit_while_it_comes_further

    (tmp_path / CONFIG_FILE).touch()
    told: list[str] = []
    coming = iter((0, 0, 10, 0, 20, 20, 0))

    def fit(note: str) -> None:
        told.append(note)
        if step := next(coming, 0):
            write_pointer(tmp_path / LATEST, f"checkpoint_epoch0_step{step}")
        raise WorkerGroupError("", {0: RuntimeError("lost\nfor good")})

    with pytest.raises(UserError, match=r"died 3 times .* further than .*step20, at last of: lost"):
        fit_while_it_comes_further(fit, tmp_path, 2)
    assert told == ["", *7 * ["the workers died, and were started again"]]
    coming = iter((30,))
    with pytest.raises(UserError, match="died 1 times"):
        fit_while_it_comes_further(fit, tmp_path, 0)


@pytest.mark.parametrize(
    ("error", "starts"),
    [(UserError("no such features"), 1), (StorageError("s3://b: away"), 3)],
)
def test_only_what_another_start_may_mend_is_tried_again(
    tmp_path: Path, error: UserError, starts: int
) -> None:
    from ray.train import WorkerGroupError

    from dimts.launch.ray_train import fit_while_it_comes_further

    (tmp_path / CONFIG_FILE).touch()
    told: list[str] = []

    def fit(note: str) -> None:
        told.append(note)
        raise WorkerGroupError("", {1: error})

    with pytest.raises(UserError, match=str(error)):
        fit_while_it_comes_further(fit, tmp_path, 2)
    assert len(told) == starts


@pytest.mark.slow
def test_run_in_storage_is_started_again_as_long_as_it_comes_further(
    bucket: StoragePath, voice_file: Path
) -> None:
    """Twice, where one death in a row is put up with."""
    how = (
        "training.max_steps=300", "training.validate_every=0", "training.checkpoint_every=20",
        "training.log_every=1", "run.name=far", f"run.storage={bucket}/runs", "ray.max_failures=1",
        *ONE_WORKER,
    )  # fmt: skip
    place = bucket / "runs" / "far"
    folder, link = folder_here(place, "runs", "worker"), place / LATEST
    job = TrainJob(voice_file, *how)
    reached = {""}
    killed: set[int] = set()

    def comes_further() -> bool:
        claim = read_claim(folder) if folder.exists() and link.exists() else None
        return claim is not None and claim["pid"] not in killed and link.read_text() not in reached

    for _ in range(2):
        until(comes_further)
        claim = read_claim(folder)
        assert claim is not None
        reached.add(link.read_text())
        killed.add(claim["pid"])
        os.kill(claim["pid"], signal.SIGKILL)
    code, out, err = job.result()
    assert code == 0, err
    assert "finished at step 300" in out

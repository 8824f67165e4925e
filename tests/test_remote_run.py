"""Runs whose folder is in object storage: as good as in a folder that all machines see."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_fixtures import S3, another_machine, names, put
from test_train_job import TrainJob
from tracking_fixtures import inside, make_store, settings_of
from training_fixtures import acoustic

from dimts.bundles.bundle import read_manifest, resolve_bundle
from dimts.bundles.fetch import local_bundle
from dimts.commands.pretrain import main as pretrain
from dimts.commands.ui import recorded_config
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.launch.local_run_folder import RemoteRun, local_run_folder
from dimts.launch.names import START
from dimts.launch.run_folder import acquire, is_last_start
from dimts.launch.start import start_run
from dimts.launch.stopping import STOP_FILE, stop_requested, stop_run
from dimts.storage import connection
from dimts.storage.connection import StorageError
from dimts.storage.paths import AnyPath, StoragePath, folder_here
from dimts.storage.pointer import read_pointer, write_pointer
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.tracker import Tracker
from dimts.training.checkpoint import BEST, LATEST, step_of
from dimts.training.machine_choices import CHOICES_FILE
from dimts.training.ownership import CLAIM, Claim, RunTakenOver

if TYPE_CHECKING:
    from conftest import BaseVoice

pytest_plugins = ("s3_fixtures",)

Voice = Callable[..., VoiceConfig]
ROOT = Path(__file__).parents[1]
WEIGHTS = "model.safetensors"
WAIT_S = 30.0
GROUP_WAIT_S = 90.0
"""A Ray and a group of workers have to start, beside another one."""


def until(happened: Callable[[], object], patience_s: float = WAIT_S) -> None:
    give_up = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.1)


def trained(config: VoiceConfig) -> Path:
    """The run's folder, when it has ended."""
    start_run(config.launch(), config.ray)
    return config.run.run_dir


def latest_weights(run: AnyPath) -> bytes:
    return (resolve_bundle(run / LATEST) / WEIGHTS).read_bytes()


def step_at(run: AnyPath) -> int:
    """Of the latest checkpoint."""
    return step_of(read_pointer(run / LATEST)) or 0


def undisturbed(voice: Voice, *settings: str) -> bytes:
    """Weights of the same training in a folder."""
    return latest_weights(trained(voice("run.name=undisturbed", *settings)))


def test_run_in_storage_is_the_run_in_a_folder(bucket: StoragePath, voice: Voice) -> None:
    here = voice("run.name=here")
    folder = trained(here)
    features = put(Path(str(here.prepare.features)), bucket / "features")
    config = voice("run.name=there", f"run.storage={bucket}/runs", f"prepare.features={features}")
    trained(config)
    place = bucket / "runs" / "there"
    assert latest_weights(place) == latest_weights(folder)
    kept = {name for name in names(place) if not name.startswith("checkpoint_")}
    assert kept == {CLAIM, START, CHOICES_FILE, "config.yaml", "metrics.jsonl", "result.json"}
    best = read_pointer(place / BEST)
    folders = {name.split("/")[0] for name in names(place) if "/" in name}
    assert best == resolve_bundle(folder / BEST).name
    assert folders == {p.name for p in folder.glob("checkpoint_epoch*")}
    for found in (place, place / BEST, place / best):
        assert load_bundle(resolve_model(str(found))).manifest.step == 12
    assert local_bundle(place) == local_bundle(place / BEST)
    with pytest.raises(UserError, match=f"^{bucket}/nothing: no bundle"):
        resolve_model(f"{bucket}/nothing")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("workers", "steps"), [(0, 60), pytest.param(2, 400, marks=pytest.mark.slow)]
)
def test_stopped_run_goes_on_on_another_machine(
    bucket: StoragePath,
    voice: Voice,
    voice_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    steps: int,
) -> None:
    settings = (f"training.max_steps={steps}", f"ray.workers={workers}")
    there = (*settings, "run.name=moved", f"run.storage={bucket}/runs")
    job = TrainJob(voice_file, *there)
    code, out, err = job.signal_after_a_step(signal.SIGTERM)
    assert code == 0, err
    assert "stopped at step" in out
    assert step_at(bucket / "runs" / "moved") < steps
    another_machine(monkeypatch, tmp_path / "other")
    code, out, err = TrainJob(voice_file, *there).result()
    assert code == 0, err
    assert "going on from checkpoint_" in out
    assert f"voice: {bucket}/runs/moved/checkpoint_best" in out
    assert latest_weights(bucket / "runs" / "moved") == undisturbed(voice, *settings)


def test_damaged_checkpoint_there_is_passed_over(
    bucket: StoragePath, voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = f"run.storage={bucket}/runs"
    trained(voice("run.name=damaged", stored, "training.max_steps=12"))
    place = bucket / "runs" / "damaged"
    last = resolve_bundle(place / LATEST) / WEIGHTS
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    another_machine(monkeypatch, tmp_path / "other")
    trained(voice("run.name=damaged", stored, "training.max_steps=12"))
    assert "going back to the checkpoint before it" in (place / "metrics.jsonl").read_text()
    assert last.read_bytes() == whole


def test_run_begun_with_other_settings_is_refused_by_its_place(
    bucket: StoragePath, voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = ("run.name=same", f"run.storage={bucket}/runs", "training.max_steps=2")
    trained(voice(*stored))
    another_machine(monkeypatch, tmp_path / "other")
    with pytest.raises(UserError, match=f"remove {bucket}/runs/same to begin anew"):
        trained(voice(*stored, "training.seed=5"))


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
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(connection, "ATTEMPTS", 1)


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


def test_record_that_waits_on_the_machine_that_trained_can_be_sent(
    bucket: StoragePath, voice: Voice
) -> None:
    config = voice("run.name=waits", f"run.storage={bucket}/runs", "tracking.uri=sqlite:///own.db")
    first = config.launch()
    acquire(first)
    with local_run_folder(first) as (launch, _):
        assert recorded_config(launch.run_dir, []) == config.tracking
    assert recorded_config(launch.run_dir, []) == config.tracking


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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_run_that_is_started_elsewhere_ends_here(
    bucket: StoragePath, voice: Voice, voice_file: Path, tmp_path: Path, workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    steps = 3000 if workers else 1000  # a group takes a while to end
    settings = (
        f"training.max_steps={steps}", "training.checkpoint_every=50", f"ray.workers={workers}",
    )  # fmt: skip
    there = (*settings, "run.name=twice", f"run.storage={bucket}/runs")
    place = bucket / "runs" / "twice"
    first = TrainJob(voice_file, *there)
    until(lambda: (place / LATEST).exists(), GROUP_WAIT_S)
    another_machine(monkeypatch, tmp_path / "other")
    second = TrainJob(voice_file, *there)
    code, _, err = first.result()
    assert code == 2, err
    assert err.splitlines()[-1].startswith("error: ")
    assert "goes on" in err.splitlines()[-1]
    assert second.process.poll() is None, "the first waited for the second's end"
    code, out, err = second.result()
    assert code == 0, err
    assert "going on from checkpoint_" in out
    assert latest_weights(place) == undisturbed(voice, *settings)


@pytest.mark.slow
def test_training_goes_on_while_the_storage_is_away(
    s3: S3, bucket: StoragePath, voice: Voice, voice_file: Path
) -> None:
    settings = ("training.max_steps=600", "training.checkpoint_every=50")
    there = (*settings, "run.name=away", f"run.storage={bucket}/runs")
    place = bucket / "runs" / "away"
    folder = folder_here(place, "runs", "worker")
    job = TrainJob(voice_file, *there)
    until(lambda: (place / LATEST).exists())

    with s3.silent():
        before = step_at(folder)
        until(lambda: step_at(folder) >= before + 200)
    code, _, err = job.result()
    assert code == 0, err
    assert latest_weights(place) == undisturbed(voice, *settings)


def test_base_what_it_rehearses_and_artifacts_may_be_in_storage(
    bucket: StoragePath, adapted: Voice, base: BaseVoice, tmp_path: Path
) -> None:
    settings = ("training.max_steps=4", "training.validate_every=2", "base.rehearsal_share=0.5")
    here = trained(adapted("run.name=here", *settings))
    run = put(base.run_dir, bucket / "base")
    sets = ", ".join(str(put(folder, bucket / folder.name)) for folder in base.features)
    there = adapted(
        "run.name=there",
        *settings,
        f"base.bundle={run}",
        f"base.features=[{sets}]",
        "tracking.enabled=true",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        f"tracking.artifacts={bucket}/mlflow",
        "tracking.flush_timeout_s=300",
    )
    started_from = acoustic(there.launch()).base
    assert started_from
    assert started_from.bundle == str(run / resolve_bundle(base.run_dir / BEST).name)
    folder = trained(there)
    assert latest_weights(folder) == latest_weights(here)
    assert [name for name in names(bucket / "mlflow") if name.endswith(WEIGHTS)]


def test_base_of_no_place_is_refused_in_one_line(voice: Voice) -> None:
    config = voice("base.bundle=s3://MY-BUCKET/base")
    for look in (config.pinned, config.resolved):
        with pytest.raises(UserError, match=r"^s3://MY-BUCKET/base: must be"):
            look()


def test_voice_of_a_bucket_is_exported(
    bucket: StoragePath, base: BaseVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, command = tmp_path / "out", ["pretrain.py", "--config", str(base.file), "--export"]
    settings = (f"run.storage={bucket}/runs", "training.max_steps=2", "training.validate_every=2")
    sets = [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", [*command, str(out), *sets])
    pretrain()
    assert load_bundle(out).manifest.step == 2


@pytest.mark.slow
def test_demo_speaks_with_a_voice_of_a_bucket(bucket: StoragePath, tmp_path: Path) -> None:
    settings = (
        f"run.storage={bucket}/runs", "training.max_steps=2", "training.validate_every=2",
        "training.sample_every=0", "tracking.enabled=false", "ray.workers=0",
        "prepare.engine=local",
    )  # fmt: skip
    command = [sys.executable, str(ROOT / "jobs/demo.py")]
    command += ["--config", str(ROOT / "jobs/configs/sample_am.yaml")]
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "demo.wav").stat().st_size > 1000
    assert f"dimts synthesize --model {bucket}/runs/sample_am --text" in done.stdout


@pytest.mark.parametrize("stored", ["in a folder", "in a bucket"])
def test_base_that_mlflow_keeps_is_copied_to_where_all_machines_find_it(
    stored: str, bucket: StoragePath, adapted: Voice, base: BaseVoice, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = ("training.max_steps=2", "training.validate_every=0")
    here = trained(adapted("run.name=here", *settings))
    tracking = settings_of(make_store(tmp_path), "bases")
    tracker = Tracker(tracking.model_copy(update={"registered_model": "latin"}), tmp_path / "base")
    tracker.start("base", {}, "")
    tracker.log_model(inside(tmp_path / "base", resolve_bundle(base.run_dir)), {}, step=1)
    tracker.finish("FINISHED")
    storage = bucket / "runs" if stored == "in a bucket" else tmp_path / "runs"
    config = adapted(
        "run.name=there",
        f"run.storage={storage}",
        "base.bundle=models:/latin@candidate",
        f"tracking.uri={tracking.uri}",
        *settings,
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    bases = [acoustic(config.launch()).base for _ in range(2)]
    places = {found.bundle for found in bases if found}
    assert len(places) == 1
    assert not list(temporary.iterdir())
    place = places.pop()
    assert place.startswith(f"{storage}/.bases/latin-candidate-")
    another_machine(monkeypatch, tmp_path / "elsewhere")
    assert read_manifest(local_bundle(place)).step == load_bundle(base.exported).manifest.step
    assert "models:/latin@candidate" in config.launch().settings.config_yaml
    trained(config)
    assert latest_weights(config.run.place) == latest_weights(here)


def test_artifacts_in_a_bucket_need_a_client(voice: Voice) -> None:
    if "google-cloud-storage" in {found.name for found in metadata.distributions()}:
        pytest.skip("it is here")
    config = voice("tracking.enabled=true", "tracking.artifacts=gs://bucket/mlflow")
    with pytest.raises(UserError, match=r"google-cloud-storage; pip install 'dimts\[gcp\]'"):
        trained(config)

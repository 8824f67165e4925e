"""Runs whose folder is in object storage: as good as in a folder that all machines see."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_fixtures import S3, another_machine, latest_weights, names, put, trained, until
from test_train_job import TrainJob
from tracking_fixtures import inside, make_store, settings_of
from training_fixtures import acoustic

from dimts.bundles.bundle import WEIGHTS, read_manifest, resolve_bundle
from dimts.bundles.fetch import local_bundle
from dimts.commands.pretrain import main as pretrain
from dimts.commands.ui import recorded_config
from dimts.commands.voice_config import VoiceConfig
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.launch.local_run_folder import local_run_folder
from dimts.launch.names import START
from dimts.launch.run_folder import acquire
from dimts.storage.paths import AnyPath, StoragePath, folder_here
from dimts.storage.pointer import read_pointer
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.tracker import Tracker
from dimts.training.checkpoint import BEST, LATEST, step_of
from dimts.training.machine_choices import CHOICES_FILE
from dimts.training.ownership import CLAIM

if TYPE_CHECKING:
    from conftest import BaseVoice

pytest_plugins = ("s3_fixtures",)

Voice = Callable[..., VoiceConfig]
ROOT = Path(__file__).parents[1]
GROUP_WAIT_S = 90.0
"""A Ray and a group of workers have to start, beside another one."""


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


def test_record_that_waits_on_the_machine_that_trained_can_be_sent(
    bucket: StoragePath, voice: Voice
) -> None:
    config = voice("run.name=waits", f"run.storage={bucket}/runs", "tracking.uri=sqlite:///own.db")
    first = config.launch()
    acquire(first)
    with local_run_folder(first) as (launch, _):
        assert recorded_config(launch.run_dir, []) == config.tracking
    assert recorded_config(launch.run_dir, []) == config.tracking


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


@pytest.mark.integration
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


@pytest.mark.integration
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

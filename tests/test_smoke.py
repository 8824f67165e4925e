"""One try of each job on a real Ray, with a real MLflow: from a corpus to a champion that speaks.

The training loses its worker on the way. What each part has to do in detail, others test.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from faults.claims import read_claim
from tracking_fixtures import make_store, settings_of
from tuning_fixtures import steps_of, write_space

from dimts.bundles.bundle import resolve_bundle
from dimts.cli import run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.launch.start import start_run
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EVENTS
from dimts.tracking.registry import CANDIDATE, CHAMPION, Registry
from dimts.training.checkpoint import LATEST

NAME = "smoke"
STEPS = 60


class Tried(NamedTuple):
    """What a job has made.

    Attributes:
        home: the folder of all of them.
        printed: what the job said.
    """

    home: Path
    printed: str

    @property
    def file(self) -> Path:
        return self.home / "voice.yaml"

    @property
    def run_dir(self) -> Path:
        return self.home / "runs" / NAME

    @property
    def tracking(self) -> TrackingConfig:
        return load_config(VoiceConfig, [self.file]).tracking


def job(name: str, *arguments: str | Path) -> str:
    """Give a command, in this process; what it says."""
    main, printed = importlib.import_module(f"dimts.commands.{name}").main, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_job(main)
    assert not ended.value.code, printed.getvalue()
    return printed.getvalue()


@contextmanager
def worker_killed(run_dir: Path, step: int) -> Iterator[None]:
    """Inside, the worker of a run is killed once it has trained a step."""
    killed, ended = threading.Event(), threading.Event()

    def kill() -> None:
        while max(steps_of(run_dir), default=0) < step:
            if ended.wait(0.01):
                return
        if claim := read_claim(run_dir):
            os.kill(int(claim["pid"]), signal.SIGKILL)
            killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert killed.is_set(), "it ended before"


@pytest.fixture(scope="module")
def prepared(
    ray_session: None, voice_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Tried:
    """Features that Ray has extracted."""
    home = tmp_path_factory.mktemp("smoke")
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["prepare"] |= {"features": str(home / "features"), "engine": "ray", "chunk": 8}
    settings["training"] |= {
        "max_steps": STEPS, "validate_every": 30, "checkpoint_every": 5, "sample_every": STEPS,
    }  # fmt: skip
    store = settings_of(make_store(home), NAME)  # its tables take longer than the worker lives
    settings["tracking"] = {
        "uri": store.uri, "artifacts": store.artifacts, "registered_model": NAME,
    }  # fmt: skip
    settings["ray"] = {"workers": 1, "report_interval_s": 0.2}
    settings["run"] = {"name": NAME, "storage": str(home / "runs")}
    tried = Tried(home, "")
    tried.file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return tried._replace(printed=job("prepare", "--config", tried.file))


@pytest.fixture(scope="module")
def trained(prepared: Tried) -> Tried:
    """A voice whose worker was killed."""
    with worker_killed(prepared.run_dir, 8):
        return prepared._replace(printed=job("train", "--config", prepared.file))


@pytest.fixture(scope="module")
def swept(trained: Tried) -> Tried:
    """A sweep of two trials, after the voice."""
    space = write_space(trained.home, trials=2)
    printed = job("tune", "--config", trained.file, "--config", space,
                  "--set", "training.sample_every=0")  # fmt: skip
    return trained._replace(printed=printed)


def test_prepare(prepared: Tried, voice_file: Path) -> None:
    """The files that this process has made for other tests."""
    features = Path(str(load_config(VoiceConfig, [voice_file]).prepare.features))
    files = {file.name for file in features.glob("*.arrow")} | {"manifest.json"}
    assert len(files) > 3
    for name in files:
        assert (prepared.home / "features" / name).read_bytes() == (features / name).read_bytes()
    assert "used      32 of 32 rows" in prepared.printed


def test_train_loses_its_worker_and_ends_with_the_same_bits(trained: Tried, tmp_path: Path) -> None:
    assert f"finished at step {STEPS}" in trained.printed
    told = (trained.run_dir / EVENTS).read_text(encoding="utf-8")
    assert "the workers died, and were started again" in told
    assert "going on from checkpoint_" in told
    alone = [f"run.storage={tmp_path}", "ray.workers=0", "tracking.enabled=false"]
    config = load_config(VoiceConfig, [trained.file], alone)
    start_run(config.launch(), config.ray)
    ours, theirs = (
        resolve_bundle(run / LATEST) / "model.safetensors"
        for run in (trained.run_dir, tmp_path / NAME)
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_train_is_one_run_of_mlflow_with_each_point_once(trained: Tried) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(trained.tracking.uri)
    run_id = Registry(trained.tracking, NAME).version("1").run_id
    assert run_id is not None
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "train/total_loss")
    assert sorted(point.step for point in history) == list(range(1, STEPS + 1))
    samples = client.list_artifacts(run_id, f"samples/step_{STEPS:06d}")
    assert {Path(file.path).suffix for file in samples} == {".wav", ".png"}


def test_evaluate(trained: Tried) -> None:
    printed = job("evaluate", "--config", trained.file, "--model", trained.run_dir)
    title = "mel-cepstral distortion"
    [measured] = [line for line in printed.splitlines() if line.startswith(title)]
    assert measured in trained.printed.splitlines()


def test_ui_has_nothing_to_send_after_a_run(trained: Tried) -> None:
    printed = job("ui", "--sync", trained.run_dir)
    assert printed.startswith(f"sent 0 records of {trained.run_dir} to sqlite:")


def test_tune_registers_the_better_of_two_trials(swept: Tried) -> None:
    assert f"registered as models:/{NAME}@candidate" in swept.printed
    registry = Registry(swept.tracking, NAME)
    assert registry.get(CANDIDATE).number == "2", "after the voice that was trained"


def test_promote_and_synthesize(swept: Tried) -> None:
    tolerant = (
        "--length-tolerance",
        "9",
        "--max-of-mean-mel",
        "9",
    )  # a voice of few steps keeps no time
    promoted = job("promote", "--config", swept.file, *tolerant)
    assert f"version 2 is now models:/{NAME}@champion" in promoted
    assert Registry(swept.tracking, NAME).get(CHAMPION).number == "2"
    there = ("--tracking-uri", swept.tracking.uri, "--text", "ሰላም።")
    best = swept.home / "runs" / f"{NAME}-small" / "best"
    for number, model in enumerate((f"models:/{NAME}@champion", str(best))):
        job("synthesize", "--model", model, *there, "--out", swept.home / f"{number}.wav")
    spoken = [(swept.home / f"{number}.wav").read_bytes() for number in range(2)]
    assert len(spoken[0]) > 1000
    assert spoken[0] == spoken[1]

"""Real MLflow for tests: an SQLite file, and a server over it on loopback."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from faults.head import free_port
from mlflow.tracking import MlflowClient
from voice_fixtures import untrained, write_voice

from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import SENT, Cursor
from dimts.tracking.event_log import append_event
from dimts.tracking.ui import start_ui, stop

logging.getLogger("alembic").setLevel(logging.ERROR)


def make_store(folder: Path) -> Path:
    """A database in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "mlflow.db").write_bytes(_empty_database())
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database."""
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def config(store: Path, request: pytest.FixtureRequest) -> TrackingConfig:
    """Settings with an experiment of the test's own."""
    return settings_of(store, request.node.name)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(store: Path, port: int) -> Iterator[str]:
    """The address of MLflow's server over the database."""
    with serving(store, port) as address:
        yield address


@cache
def _empty_database() -> bytes:
    """Its tables take seconds to make."""
    with TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def settings_of(store: Path, experiment: str) -> TrackingConfig:
    return TrackingConfig(
        uri=f"sqlite:///{store}/mlflow.db",
        artifacts=str(store / "artifacts"),
        experiment=experiment,
        send_every_s=0.05,
    )


def waiting(run_dir: Path) -> list[str]:
    """Kinds of the events that wait to be sent."""
    cursor = Cursor(run_dir)
    entries = [*cursor.postponed(), *cursor.pending()]
    return [next(kind for kind in SENT if kind in entry.event) for entry in entries]


def begin(run_dir: Path, name: str, steps: range) -> None:
    """The event log of a run that was killed while no store was there."""
    run_dir.mkdir(exist_ok=True)
    append_event(run_dir, {"start": {"run_name": name, "params": {}, "tags": {}}})
    for step in steps:
        append_event(run_dir, {"step": step, "values": {"train/total_loss": 1 / step}})


def inside(run_dir: Path, source: Path) -> Path:
    """A copy of a file or a folder in a run's folder, from which alone files are sent."""
    copy = run_dir / source.name
    run_dir.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, copy, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, copy)
    return copy


@contextmanager
def serving(store: Path, port: int) -> Iterator[str]:
    """MLflow's server over the database, as `jobs/ui.py` starts it."""
    shown = TrackingConfig(uri=f"sqlite:///{store}/mlflow.db", artifacts=str(store / "proxied"))
    process = start_ui(shown, port)
    yield f"http://127.0.0.1:{port}"
    stop(process)


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """The best checkpoint of an untrained, very small voice."""
    best = folder / "checkpoint_best"
    best.mkdir(parents=True)
    (best / "trainer_state.pt").write_bytes(b"moments of the optimizer")
    return write_voice(best, untrained(seed))

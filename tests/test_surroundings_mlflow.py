"""MLflow's database when it is of another version, or was moved with its project."""

from __future__ import annotations

import logging
import re
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from faults.head import free_port
from tracking_fixtures import inside, make_store, settings_of, write_checkpoint
from user_fixtures import ROOT

from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.moved import follow_move
from dimts.tracking.registry import CANDIDATE, Registry
from dimts.tracking.tracker import Tracker
from dimts.tracking.ui import start_ui, stop

OLDER = "4465047574b1"
"""The database's version of July 2024, of MLflow 2."""
NEWER = "f" * 12


class Listener(logging.Handler):
    """Knows when something was said."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.set()


def train(
    config: TrackingConfig,
    run_dir: Path,
    wav: Path | None = None,
    heard: threading.Event | None = None,
) -> Tracker:
    """A run that is recorded: a value, and a file if there is one; ends when something was said."""
    tracker = Tracker(config, run_dir)
    tracker.start(run_dir.name, {}, "a: 1\n")
    tracker.log_metrics({"loss": 1.0}, 1)
    if wav:
        tracker.log_artifact(inside(run_dir, wav), "samples")
    assert heard is None or heard.wait(120)
    tracker.finish("FINISHED")
    return tracker


def of_version(folder: Path, version: str) -> TrackingConfig:
    """A database with every table that says it is of another version."""
    (folder / "made").mkdir()
    database = make_store(folder / "made") / "mlflow.db"
    database.rename(folder / "mlflow.db")  # a process that knows a database looks only once
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])
    return settings_of(folder, "another")


@pytest.mark.parametrize("version", [OLDER, NEWER], ids=["older", "newer"])
def test_a_database_of_another_mlflow_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    config = of_version(tmp_path, version).model_copy(update={"flush_timeout_s": 1.0})
    told = rf".*database schema \(found version {version}, .*'mlflow db upgrade"
    with pytest.raises(UserError, match=f"^{config.uri}: {told}"):
        start_ui(config, free_port())
    with pytest.raises(UserError, match=f"^models:/voice@champion: .*{told}"):
        resolve_model("models:/voice@champion", config)
    with pytest.raises(UserError, match=f"^{config.uri}: {told}"):
        Registry(config, "voice").find(CANDIDATE)
    listener = Listener()
    with caplog.at_level(logging.WARNING, "dimts"):
        logging.getLogger("dimts").addHandler(listener)
        train(config, tmp_path / "run", heard=listener.heard)
        logging.getLogger("dimts").removeHandler(listener)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("dimts")]
    assert len(lines) == 2, "training goes on, and says why once"
    assert re.search(f"does not take records \\({told}", lines[0])
    assert "records wait in" in lines[1]


@pytest.mark.slow
def test_a_project_that_was_moved_shows_its_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old place", tmp_path / "new place"
    old.mkdir()
    settings = TrackingConfig(experiment="moved", send_every_s=0.05, registered_model="voice")
    monkeypatch.chdir(old)
    config = settings.absolute()
    wav = tmp_path / "a.wav"
    wav.write_bytes(b"RIFF")
    tracker = Tracker(config, old / "runs" / "run")
    tracker.start("run", {}, "a: 1\n")
    tracker.log_artifact(inside(old / "runs" / "run", wav), "samples")
    tracker.log_model(write_checkpoint(old / "runs" / "run"), {"mcd": 1.0}, 1)
    tracker.finish("FINISHED")
    old.rename(new)

    monkeypatch.chdir(new)
    config = settings.absolute()
    with pytest.raises(UserError, match=r"old%20place/mlartifacts, which is gone; .* --moved"):
        resolve_model("models:/voice@candidate", config)
    with caplog.at_level(logging.WARNING, "dimts"):
        impatient = config.model_copy(update={"flush_timeout_s": 5.0})
        again = train(impatient, new / "runs" / "run", wav)
    assert again.run_id == tracker.run_id, "the same run goes on"
    assert "which is gone; if the project folder was moved" in caplog.records[0].getMessage()
    assert not old.exists(), "nothing is written where the project was"

    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / "ui.py", "--moved"],
        cwd=new, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"is now {(new / 'mlartifacts').as_uri()}" in done.stdout
    assert follow_move(config) == {}, "once is enough"
    assert sync(config, new / "runs" / "run") > 0
    load_bundle(resolve_model("models:/voice@candidate", config))
    port = free_port()
    server = start_ui(config, port)
    try:
        for run in (tracker, train(config, new / "runs" / "further", wav)):
            address = f"http://127.0.0.1:{port}/get-artifact?path=samples/a.wav&run_uuid="
            with urllib.request.urlopen(address + str(run.run_id)) as answer:
                assert answer.read() == b"RIFF"
    finally:
        stop(server)

"""MLflow's pages over recorded runs, and what `dimts ui` sends to them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import soundfile
import torch
from faults.head import free_port
from mlflow.tracking import MlflowClient
from tracking_fixtures import begin, inside, waiting

from dimts.commands.ui import recorded_config, send, serve
from dimts.core.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_run import RunIdentity
from dimts.tracking.tracker import Tracker
from dimts.tracking.ui import page, start_ui

pytest_plugins = ("tracking_fixtures",)


def test_the_ui_serves_the_runs_of_the_database_with_their_sounds(
    config: TrackingConfig, server: str, port: int, tmp_path: Path
) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, torch.zeros(100).numpy(), 22050)
    tracker = Tracker(config, tmp_path / "run")
    tracker.start("run", {}, "")
    tracker.log_artifact(inside(tmp_path / "run", wav), "audio/step_000500")
    tracker.finish("FINISHED")
    address = f"{server}/get-artifact?path=audio/step_000500/a.wav&run_uuid={tracker.run_id}"
    with urllib.request.urlopen(address) as answer:
        assert answer.headers["content-type"] in ("audio/x-wav", "audio/wav")
        assert answer.read() == wav.read_bytes()
    experiment = MlflowClient(config.uri).get_experiment_by_name(config.experiment)
    assert experiment is not None
    assert f"/experiments/{experiment.experiment_id}/runs" in page(config, port)
    with pytest.raises(UserError, match=f"port {port} is taken"):
        start_ui(config, port)


@pytest.mark.integration
def test_ui_job_sends_what_waits_and_names_what_is_wrong(
    config: TrackingConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    begin(run_dir, "late", range(1, 2))
    settings = [
        "--set", f"tracking.uri={config.uri}", "--set", f"tracking.experiment={config.experiment}"
    ]  # fmt: skip
    job = [sys.executable, "jobs/ui.py", *settings]
    sent = subprocess.run([*job, "--sync", run_dir], capture_output=True, text=True, check=True)
    assert f"sent 2 records of {run_dir}" in sent.stdout
    run_id = json.loads((run_dir / "mlflow_run.json").read_text())["run_id"]
    assert MlflowClient(config.uri).get_run(run_id).info.run_name == "late"
    empty = subprocess.run(
        [sys.executable, "jobs/ui.py", "--set", f"tracking.uri=sqlite:///{tmp_path}/none.db"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (empty.returncode, empty.stderr.count("\n")) == (2, 1)
    assert "no run was recorded here yet" in empty.stderr


def test_what_waits_goes_where_the_run_is_recorded_and_nowhere_else(tmp_path: Path) -> None:
    tracking = {"experiment": "hers", "registered_model": "voice", "uri": "http://***@host:1"}
    run_dir = tmp_path / "run"
    begin(run_dir, "late", range(0))
    (run_dir / "mlflow_run.json").write_text(json.dumps({"uri": "http://***@host:1"}))
    settings = {"tracking": tracking, "mel": {}, "run": {"name": "am"}}
    (run_dir / "config.yaml").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"^{run_dir}/config.yaml: tracking.uri: .* --set tracking"):
        recorded_config(run_dir, [])
    with pytest.raises(UserError, match=f"^{tmp_path}/config.yaml: no such config file"):
        recorded_config(tmp_path, [])
    with pytest.raises(UserError, match="track: unknown key"):
        recorded_config(run_dir, ["track.uri=http://host:1"])
    config = recorded_config(run_dir, ["tracking.uri=http://host:1"])
    assert (config.uri, config.experiment) == ("http://host:1", "hers")
    assert RunIdentity(config, run_dir).elsewhere() is None, "credentials are of no matter"
    other = recorded_config(run_dir, [f"tracking.uri=sqlite:///{tmp_path}/other.db"])
    with pytest.raises(UserError, match=r"is recorded in http://\*\*\*@host:1, not in sqlite"):
        send(other, run_dir)
    assert waiting(run_dir) == ["start"]
    assert not (tmp_path / "other.db").exists()
    del tracking["registered_model"]
    (run_dir / "config.yaml").write_text(json.dumps({**settings, "sweep": {"trials": 3}}))
    swept = recorded_config(run_dir, ["tracking.uri=http://host:1"])
    assert swept.registered_model == "am", "a sweep registers its voice"


def test_pages_that_fail_leave_no_server_behind(
    config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of MLflow, which takes seconds, something that does not answer."""
    server = subprocess.Popen(["sleep", "60"], start_new_session=True)
    monkeypatch.setattr("dimts.commands.ui.start_ui", lambda *arguments: server)
    handler = signal.getsignal(signal.SIGTERM)
    away = config.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}"})
    try:
        with pytest.raises(UserError, match=r"^http://127"):
            serve(away, free_port())
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert server.poll() == -signal.SIGTERM

"""The record of a run, against real MLflow: SQLite in a file, and a server on loopback."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from faults.head import free_port
from mlflow.tracking import MlflowClient
from tracking_fixtures import (
    inside,
    make_store,
    serving,
    settings_of,
    waiting,
)

from dimts.commands.ui import recorded_config, send, serve
from dimts.core.config import build_config, to_yaml
from dimts.core.errors import ConfigError, UserError
from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import CURSOR, Cursor
from dimts.tracking.event_log import EVENTS, append_event, read_events
from dimts.tracking.mlflow_run import RunIdentity
from dimts.tracking.mlflow_sender import REFUSED
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.tracker import Tracker
from dimts.tracking.ui import page, start_ui

PARAMS = {"training.max_steps": 500, "model.width": 192}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    with serving(store, port) as address:
        yield address


def run(
    config: TrackingConfig, run_dir: Path, steps: range, params: dict[str, Any] | None = None
) -> Tracker:
    """A whole session of a run: start, a value a step, finish."""
    tracker = Tracker(config, run_dir)
    tracker.start(run_dir.name, PARAMS if params is None else params, "a: 1\n")
    for step in steps:
        tracker.log_metrics({"train/total_loss": 1 / step}, step)
    tracker.finish("FINISHED")
    return tracker


def steps_of(client: MlflowClient, run_id: str, key: str = "train/total_loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, key)]


def begin(run_dir: Path, name: str, steps: range) -> None:
    """The event log of a run that was killed while no store was there."""
    run_dir.mkdir(exist_ok=True)
    append_event(run_dir, {"start": {"run_name": name, "params": {}, "tags": {}}})
    for step in steps:
        append_event(run_dir, {"step": step, "values": {"train/total_loss": 1 / step}})


def test_run_shows_params_metrics_artifacts_and_status(
    config: TrackingConfig, tmp_path: Path
) -> None:
    long = "x" * 7000
    tracker = Tracker(config, tmp_path / "run")
    tracker.start(
        "first",
        {**PARAMS, "text.long": long, **{f"many.{n}": n for n in range(150)}},
        "training:\n  max_steps: 500\n",
        {"voice": "am"},
    )
    for step in range(1, 1500):
        tracker.log_metrics({"train/total_loss": 1 / step, "odd: key(%)": step}, step)
    tracker.log_metrics({"val/mel_loss": math.nan, "val/total_loss": math.inf}, 1500)
    wav = tmp_path / "run" / "a.wav"
    wav.write_bytes(b"RIFF")
    tracker.log_artifact(wav, "audio/step_000500")
    tracker.finish("FINISHED")
    assert not waiting(tmp_path / "run")

    client = MlflowClient(config.uri)
    assert tracker.run_id is not None
    recorded = client.get_run(tracker.run_id)
    assert (recorded.info.run_name, recorded.info.status) == ("first", "FINISHED")
    assert recorded.data.tags["voice"] == "am"
    assert recorded.data.params["training.max_steps"] == "500"
    assert recorded.data.params["many.149"] == "149"
    assert recorded.data.params["text.long"].endswith("(cut, see config.yaml)")
    assert steps_of(client, tracker.run_id) == list(range(1, 1500))
    assert recorded.data.metrics["odd_ key___"] == 1499
    assert math.isnan(recorded.data.metrics["val/mel_loss"])
    location = Path(recorded.info.artifact_uri.removeprefix("file://"))
    assert (location / "audio/step_000500/a.wav").read_bytes() == b"RIFF"
    assert (location / "config.yaml").read_text() == "training:\n  max_steps: 500\n"
    assert location.is_relative_to(config.artifacts or "")


def test_runs_are_nested_described_and_tagged_later(config: TrackingConfig, tmp_path: Path) -> None:
    parent = Tracker(config, tmp_path / "sweep")
    parent.start("sweep", {}, "")
    parent_id = parent.wait_for_run_id(60)
    assert parent_id is not None
    child = Tracker(config, tmp_path / "7")
    tags = {"mlflow.parentRunId": parent_id, "mlflow.note.content": "freeze 0"}
    child.start("trial 7", {}, "", tags)
    child.set_tags({"dimts.outcome": "stopped early", "mlflow.note.content": "**freeze** 0"})
    child.finish("FINISHED")
    parent.finish("FINISHED")

    client = MlflowClient(config.uri)
    experiment = client.get_experiment_by_name(config.experiment)
    assert experiment is not None
    # What MLflow's page asks for when a run's children are unfolded.
    query = f"tags.`mlflow.parentRunId` = '{parent_id}'"
    [found] = client.search_runs([experiment.experiment_id], query)
    assert (found.info.run_id, found.info.run_name) == (child.run_id, "trial 7")
    assert found.data.tags["dimts.outcome"] == "stopped early"
    assert found.data.tags["mlflow.note.content"] == "**freeze** 0"


def test_the_id_of_a_run_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    config = TrackingConfig(uri="http://127.0.0.1:1", flush_timeout_s=0)
    tracker = Tracker(config, tmp_path / "run")
    tracker.start("run", {}, "")
    assert tracker.wait_for_run_id(0.1) is None
    tracker.set_tags({"dimts.outcome": "failed"})
    tracker.finish("FAILED")
    assert waiting(tmp_path / "run") == ["start", "artifact", "tags", "end"]


def test_restart_goes_on_in_the_same_run_without_duplicates(
    config: TrackingConfig, tmp_path: Path
) -> None:
    first = run(config, tmp_path / "run", range(1, 21))
    changed = {**PARAMS, "training.max_steps": 1000, "training.new": True}
    second = run(config, tmp_path / "run", range(11, 31), changed)
    assert first.run_id == second.run_id is not None
    client = MlflowClient(config.uri)
    recorded = client.get_run(second.run_id)
    assert steps_of(client, second.run_id) == list(range(1, 31))
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["training.max_steps"] == "500"
    assert recorded.data.params["training.new"] == "True"
    assert recorded.data.tags["dimts.changed_params"] == "training.max_steps: 500 -> 1000"
    experiment = client.get_experiment_by_name(config.experiment)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_what_the_store_took_without_our_knowing_is_not_there_twice(
    config: TrackingConfig, tmp_path: Path
) -> None:
    """Killed after the store answered and before we wrote that down."""
    run_dir = tmp_path / "run"
    begin(run_dir, "run", range(1, 11))
    assert sync(config, run_dir) == 11
    (run_dir / CURSOR).unlink()
    identity = json.loads((run_dir / "mlflow_run.json").read_text())
    first = identity.pop("run_id")
    (run_dir / "mlflow_run.json").write_text(json.dumps(identity))
    client = MlflowClient(config.uri)
    assert sync(config, run_dir) == 11
    assert steps_of(client, first) == list(range(1, 11))
    experiment = client.get_experiment_by_name(config.experiment)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_run_that_was_deleted_from_the_store_starts_anew(
    config: TrackingConfig, tmp_path: Path
) -> None:
    first = run(config, tmp_path / "run", range(1, 4))
    assert first.run_id is not None
    client = MlflowClient(config.uri)
    client.delete_run(first.run_id)
    second = run(config, tmp_path / "run", range(2, 6))
    assert second.run_id is not None
    assert second.run_id != first.run_id
    assert steps_of(client, second.run_id) == [1, 2, 3, 4, 5], "all that is in the event log"


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_rest(
    config: TrackingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for step, key in enumerate(["good", "/bad", "good"]):
        append_event(run_dir, {"step": step, "values": {key: 1.0}})
    tracker = run(config, run_dir, range(1, 3))
    assert tracker.run_id is not None
    assert not waiting(run_dir)
    assert steps_of(MlflowClient(config.uri), tracker.run_id, "good") == [0, 2]
    assert "/bad" in (run_dir / REFUSED).read_text()
    assert [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]


def test_records_wait_while_the_server_is_away_and_follow_when_it_is_there(
    port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    run_dir = tmp_path / "away"
    config = TrackingConfig(
        uri=f"http://bob:hunter2@127.0.0.1:{port}", experiment="away", flush_timeout_s=1
    )
    run_dir.mkdir()
    artifact = run_dir / "mel.png"
    artifact.write_bytes(b"PNG")
    tracker = Tracker(config, run_dir)
    tracker.start("away", {"tracking.uri": config.uri}, f"uri: {config.uri}\n")
    tracker.log_metrics({"train/total_loss": math.nan}, 1)
    tracker.log_artifact(artifact, "plots")
    tracker.finish("KILLED")
    assert waiting(run_dir) == ["start", "artifact", "values", "artifact", "end"]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("does not take records" in message for message in messages) <= 1
    assert sum("5 tracking records wait in" in message for message in messages) == 1
    stored = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
    assert not [text for text in [*stored, caplog.text.encode()] if b"hunter2" in text]
    with pytest.raises(Exception, match=r"refused|Max retries"):
        sync(config, run_dir)
    assert len(waiting(run_dir)) == 5

    request.getfixturevalue("server")
    assert sync(config, run_dir) == 5
    assert not waiting(run_dir)
    run_id = json.loads((run_dir / "mlflow_run.json").read_text())["run_id"]
    client = MlflowClient(f"http://127.0.0.1:{port}")
    recorded = client.get_run(run_id)
    assert recorded.info.status == "KILLED"
    assert math.isnan(recorded.data.metrics["train/total_loss"])
    assert recorded.data.params["tracking.uri"] == f"http://***@127.0.0.1:{port}"
    assert [file.path for file in client.list_artifacts(run_id, "plots")] == ["plots/mel.png"]


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


def test_log_survives_kill_9_in_the_middle_of_a_write(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dimts.tracking.event_log import EVENTS, append_event\n"
        "for step in range(3): append_event(Path(sys.argv[1]), {'step': step, 'values': {}})\n"
        "with open(Path(sys.argv[1]) / EVENTS, 'a') as f: f.write('{\"step\": 3, \"val')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert len(list(read_events(tmp_path / EVENTS))) == 3, "it may still be being written"
    append_event(tmp_path, {"step": 4, "values": {}})
    assert [event["step"] for _, _, event in read_events(tmp_path / EVENTS)] == [0, 1, 2, 4]
    cursor = Cursor(tmp_path)
    assert cursor.lock()
    for entry in cursor.pending():
        cursor.move(entry)
    assert Cursor(tmp_path).n_waiting() == 0


def test_only_one_process_sends(tmp_path: Path) -> None:
    cursor, other = Cursor(tmp_path), Cursor(tmp_path)
    assert cursor.lock()
    assert not other.lock()
    cursor.unlock()
    assert other.lock()


def test_tensorboard_events_go_on_where_a_resumed_run_does(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    from dimts.tracking.tensorboard import TensorboardWriter

    for steps in (range(1, 21), range(11, 31)):
        tracker = TensorboardWriter(tmp_path)
        for step in steps:
            tracker.log_metrics({"train/total_loss": 1 / step}, step)
        tracker.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/total_loss")] == list(range(1, 31))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'dimts\[tensorboard\]'"):
        Tracker(config.model_copy(update={"tensorboard": True}), tmp_path).start("run", {}, "")


def test_a_session_that_only_measures_leaves_tensorboard_s_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    from dimts.tracking.tensorboard import TensorboardWriter

    trained = [({"parameters/trained": 9.0}, 0), ({"val/total_loss": 9.0}, 0)]
    trained += [({"train/total_loss": 1 / step}, step) for step in (10, 20)]
    measured = [({"forgetting/mcd": 5.0}, 0), ({"val/mcd": 4.0, "test/mcd": 4.0}, 20)]
    for points in (trained, trained + measured, measured):
        tracker = TensorboardWriter(tmp_path)
        for values, step in points:
            tracker.log_metrics(values, step)
        tracker.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curves = {
        key: [event.step for event in events.Scalars(key)]
        for key in ("parameters/trained", "val/total_loss", "train/total_loss")
    }
    assert curves == {
        "parameters/trained": [0], "val/total_loss": [0], "train/total_loss": [10, 20],
    }  # fmt: skip


def test_full_disk_costs_tensorboard_points_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Files may not grow beyond 5000 bytes, then not at all, then as before; and not at the end."""
    from tensorboard.backend.event_processing import event_accumulator

    from dimts.tracking import tensorboard

    monkeypatch.setattr(tensorboard, "RETRY_S", 0.0)
    monkeypatch.setattr(threading, "excepthook", lambda failed: None)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {2: 5000, 301: 0, 390: limit[0]}
    tracker = tensorboard.TensorboardWriter(tmp_path)
    other = tensorboard.TensorboardWriter(tmp_path / "other")
    try:
        for step in range(1, 401):
            if step in sizes:
                resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[step], limit[1]))
            tracker.log_metrics({"train/total_loss": 1 / step}, step)
        tracker.close()
        other.log_metrics({"train/total_loss": 1.0}, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        other.log_metrics({"train/total_loss": 1.0}, 2)
        other.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = [record.getMessage() for record in caplog.records]
    assert sum(f"{tmp_path}/tensorboard takes no more: File too large" in one for one in told) == 1
    assert sum(f"{tmp_path}/other/tensorboard takes no more" in one for one in told) == 1
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = {event.step for event in events.Scalars("train/total_loss")}
    assert steps > {*range(1, 20), *range(391, 401)}
    assert not steps & {*range(320, 390)}


def test_switched_off_there_is_the_event_log_and_nothing_else(tmp_path: Path) -> None:
    tracker = Tracker(TrackingConfig(enabled=False, tensorboard=True), tmp_path)
    tracker.start("run", {}, "")
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.finish("FINISHED")
    assert [file.name for file in tmp_path.iterdir()] == [EVENTS]


def test_credentials_are_masked_wherever_settings_are_written() -> None:
    config = TrackingConfig(uri="https://bob:hun/ter2@host".replace("/t", "t"))
    assert "bob" not in to_yaml(config)
    assert "uri: https://***@host" in to_yaml(config)
    assert config.uri == "https://bob:hunter2@host"
    assert mask_secrets("at postgresql+x://a:b@c@db/m now") == "at postgresql+x://***@db/m now"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_USERNAME"):
        build_config(TrackingConfig, {"uri": "https://***@host"})


@pytest.mark.parametrize("uri", ["mlruns", "file:///mlruns", "sqlite:///", "ftp://host/x"])
def test_unknown_stores_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="uri: must be sqlite:///FILE"):
        build_config(TrackingConfig, {"uri": uri})


def test_paths_become_absolute_and_servers_keep_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = TrackingConfig().absolute()
    assert local.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert local.artifact_root == f"{tmp_path}/mlartifacts"
    monkeypatch.chdir("/")
    assert local.absolute() == local
    remote = TrackingConfig(uri="http://host:5000")
    assert remote.absolute() == remote
    assert remote.artifact_root is None
    assert TrackingConfig(artifacts="s3://b/a").absolute().artifact_root == "s3://b/a"


def test_the_users_own_mlflow_environment_is_kept(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    tracker = Tracker(config, tmp_path / "run")
    tracker.start("run", {}, "")
    during = (
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"],
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"],
    )
    tracker.finish("FINISHED")
    assert during == ("77", "1")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


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


logging.getLogger("alembic").setLevel(logging.ERROR)

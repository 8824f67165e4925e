"""The record of a run, against real MLflow: SQLite in a file, and a server on loopback."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tracking_fixtures import begin, waiting

from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import CURSOR
from dimts.tracking.event_log import append_event
from dimts.tracking.mlflow_sender import REFUSED
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)
PARAMS = {"training.max_steps": 500, "model.width": 192}


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

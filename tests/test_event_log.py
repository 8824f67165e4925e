"""The event log and MLflow's cursor over it: nothing lost, nothing twice, whatever is missing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tracking_fixtures import waiting, write_checkpoint

from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import CURSOR, Cursor
from dimts.tracking.event_log import EVENTS, append_event, read_events
from dimts.tracking.mlflow_sender import Sender
from dimts.tracking.mlflow_thread import pause_after, sync
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)

LOSS = "train/total_loss"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def write(run_dir: Path, steps: range) -> None:
    for step in steps:
        append_event(run_dir, {"step": step, "values": {LOSS: 1 / step}})


def run_id_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "mlflow_run.json").read_text())["run_id"])


def steps_of(config: TrackingConfig, run_dir: Path) -> list[int]:
    history = MlflowClient(config.uri).get_metric_history(run_id_of(run_dir), LOSS)
    return sorted(point.step for point in history)


def artifact(config: TrackingConfig, run_dir: Path, path: str) -> bytes:
    uri = str(MlflowClient(config.uri).get_run(run_id_of(run_dir)).info.artifact_uri)
    return (Path(uri.removeprefix("file://")) / path).read_bytes()


def session(config: TrackingConfig, run_dir: Path, steps: range) -> Tracker:
    tracker = Tracker(config, run_dir)
    tracker.start("run", {}, "")
    for step in steps:
        tracker.log_metrics({LOSS: 1 / step}, step)
    tracker.finish("FINISHED")
    return tracker


# The log


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from dimts.tracking.config import TrackingConfig
from dimts.tracking.tracker import Tracker

logging.basicConfig(format="%(message)s")
tracker = Tracker(TrackingConfig(uri="http://127.0.0.1:1", flush_timeout_s=0), Path(sys.argv[1]))
tracker.start("run", {}, "")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for step in range(1, 101):
    if step == 11:
        size = (Path(sys.argv[1]) / "metrics.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200, unlimited[1]))
    if step == 91 and sys.argv[2] == "has room again":
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    tracker.log_metrics({"train/total_loss": 1 / step}, step)
tracker.finish("FINISHED")
"""


@pytest.mark.parametrize("disk", ["has room again", "stays full"])
def test_a_full_disk_never_stops_training(disk: str, run_dir: Path) -> None:
    """What it does not take follows in order when there is room, and is counted if there is none;
    the last write that it took was a part of a line."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run_dir), disk], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    events = [event for _, _, event in read_events(run_dir / EVENTS)]
    steps = [event["step"] for event in events if "values" in event]
    assert done.stderr.count("takes no more: ") == 1
    if disk == "has room again":
        assert steps == list(range(1, 101))
        assert events[-1]["end"] == "FINISHED"
        assert "lacks" not in done.stderr
    else:
        assert 10 < len(steps) < 20
        assert steps == list(range(1, len(steps) + 1))
        assert f"lacks {100 - len(steps) + 1} events" in done.stderr


def test_a_value_keeps_the_time_at_which_it_was_measured(
    run_dir: Path, config: TrackingConfig
) -> None:
    append_event(run_dir, {"time": 1.234, "step": 1, "values": {LOSS: 1.0}})
    sync(config, run_dir)
    [point] = MlflowClient(config.uri).get_metric_history(run_id_of(run_dir), LOSS)
    assert point.timestamp == 1234


# The cursor


@pytest.mark.parametrize("sent_before", [False, True])
def test_a_killed_writer_that_goes_on_beside_its_successor(
    sent_before: bool, config: TrackingConfig, run_dir: Path
) -> None:
    """It adds steps when the same and later ones were recorded, and perhaps sent, already."""
    write(run_dir, range(1, 41))
    append_event(run_dir, {"start": {"run_name": "run", "params": {}, "tags": {}}})
    write(run_dir, range(31, 61))
    sender = Sender(config, run_dir)
    if sent_before:
        assert sender.drain()
    write(run_dir, range(41, 46))
    assert sender.drain()
    assert steps_of(config, run_dir) == list(range(1, 61))
    assert waiting(run_dir) == []


def test_a_step_that_was_never_sent_is_sent_when_it_is_computed_again(
    config: TrackingConfig, run_dir: Path
) -> None:
    """What follows it was sent, so that it is below the highest step of its metric."""
    write(run_dir, range(1, 11))
    write(run_dir, range(16, 21))
    write(run_dir, range(9, 25))
    sync(config, run_dir)
    assert steps_of(config, run_dir) == list(range(1, 25))


@pytest.mark.parametrize("cursor", ["empty", "missing", "older", "of another log"])
def test_without_a_cursor_that_fits_the_store_is_asked(
    cursor: str, config: TrackingConfig, run_dir: Path
) -> None:
    """As after a crash of the machine, which can leave a file that was just replaced empty, or on
    the next machine, to which the log and the cursor came at different times."""
    session(config, run_dir, range(1, 11))
    older = (run_dir / CURSOR).read_bytes()
    session(config, run_dir, range(11, 21))
    if cursor == "empty":
        (run_dir / CURSOR).write_bytes(b"")
    elif cursor == "missing":
        (run_dir / CURSOR).unlink()
    elif cursor == "older":
        (run_dir / CURSOR).write_bytes(older)
    else:
        lines = (run_dir / EVENTS).read_bytes().splitlines(keepends=True)
        (run_dir / EVENTS).write_bytes(b"".join(lines[:18]))
    tracker = session(config, run_dir, range(15, 31))
    assert steps_of(config, run_dir) == list(range(1, 31))
    assert waiting(run_dir) == []
    assert MlflowClient(config.uri).get_run(str(tracker.run_id)).info.status == "FINISHED"


def test_a_cursor_behind_the_end_of_a_shorter_log_skips_nothing(
    config: TrackingConfig, run_dir: Path
) -> None:
    write(run_dir, range(1, 21))
    sync(config, run_dir)
    lines = (run_dir / EVENTS).read_bytes().splitlines(keepends=True)
    (run_dir / EVENTS).write_bytes(b"".join(lines[:10]))
    write(run_dir, range(11, 41))
    sync(config, run_dir)
    assert steps_of(config, run_dir) == list(range(1, 41))


def test_events_of_a_run_that_is_deleted_meanwhile_follow_in_a_new_one(
    config: TrackingConfig, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(config.model_copy(update={"flush_timeout_s": 0.5}), run_dir)
    tracker.start("run", {}, "")
    first = tracker.wait_for_run_id(60)
    assert first is not None
    MlflowClient(config.uri).delete_run(first)
    for step in range(1, 11):
        tracker.log_metrics({LOSS: 1 / step}, step)
    tracker.finish("KILLED")
    assert f"run {first} is deleted" in caplog.text
    second = session(config, run_dir, range(8, 21))
    assert second.run_id not in (None, first)
    assert steps_of(config, run_dir) == list(range(1, 21))


# Files


def test_metrics_do_not_wait_for_artifacts_that_have_no_place(
    config: TrackingConfig, run_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.write_text("no folder")
    config = config.model_copy(update={"artifacts": str(place)})
    session(config.model_copy(update={"enabled": False}), run_dir, range(1, 11))
    with pytest.raises(OSError, match="place"):
        sync(config, run_dir)
    client = MlflowClient(config.uri)
    assert steps_of(config, run_dir) == list(range(1, 11))
    assert client.get_run(run_id_of(run_dir)).info.status == "FINISHED"
    assert waiting(run_dir) == ["artifact"]
    place.unlink()
    assert sync(config, run_dir) == 1
    assert [file.path for file in client.list_artifacts(run_id_of(run_dir))] == ["config.yaml"]
    assert waiting(run_dir) == []
    assert steps_of(config, run_dir) == list(range(1, 11))


def test_a_file_is_sent_as_it_is_now_and_one_that_is_gone_is_named(
    config: TrackingConfig, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(config.model_copy(update={"enabled": False}), run_dir)
    tracker.start("run", {}, "")
    page, gone = run_dir / "samples.html", run_dir / "gone.png"
    for content in ("first", "second"):
        page.write_text(content)
        tracker.log_artifact(page, "samples")
    gone.touch()
    tracker.log_artifact(gone, "plots")
    voice = write_checkpoint(run_dir)
    tracker.log_model(voice, {})
    tracker.finish("FINISHED")
    gone.unlink()
    voice.rename(run_dir / "elsewhere")
    caplog.clear()
    sync(config, run_dir)
    assert artifact(config, run_dir, "samples/samples.html") == b"second"
    assert [record.getMessage() for record in caplog.records] == [
        f"tracking: {name} is not in {run_dir} any more, so it is not sent"
        for name in ("gone.png", "checkpoint_best")
    ]
    assert waiting(run_dir) == []
    page.write_text("third")
    again = Tracker(config, run_dir)
    again.start("run", {}, "")
    again.log_artifact(page, "samples")
    again.finish("FINISHED")
    assert artifact(config, run_dir, "samples/samples.html") == b"third"


@pytest.mark.parametrize("how", ["path", "link"])
def test_nothing_outside_the_run_s_folder_is_sent(
    how: str, config: TrackingConfig, run_dir: Path, tmp_path: Path
) -> None:
    """The folder may be another person's, who named a file of this machine."""
    secret = tmp_path / "secret.txt"
    secret.write_text("hers")
    (run_dir / "link.txt").symlink_to(secret)
    name = "../secret.txt" if how == "path" else "link.txt"
    append_event(run_dir, {"artifact": name, "folder": ""})
    append_event(run_dir, {"model": "..", "step": 1, "metrics": {}})
    assert sync(config, run_dir) == 2
    assert MlflowClient(config.uri).list_artifacts(run_id_of(run_dir)) == []


def test_the_pause_between_tries_stays_finite() -> None:
    assert [pause_after(n, 1.5) for n in (0, 1, 2, 5, 5000)] == [1.5, 3, 6, 30, 30]
    assert pause_after(3, 60) == 60


def test_a_line_that_is_no_event_is_passed_over(run_dir: Path) -> None:
    (run_dir / EVENTS).write_bytes(b'12\n{"step"\nnull\n\xff\n')
    write(run_dir, range(1, 3))
    assert [event["step"] for _, _, event in read_events(run_dir / EVENTS)] == [1, 2]
    assert Cursor(run_dir).n_waiting() == 2


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

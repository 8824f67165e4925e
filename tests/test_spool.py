"""What waits on disk for the store: bounded, said when it is, and sent once in any order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from tracking_fixtures import make_store, settings_of

from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_sender import Sender
from dimts.tracking.mlflow_tracker import SPOOL, MlflowTracker, pause_after, sync
from dimts.tracking.spool import Spool

MIB = 2**20
LOSS = "train/total_loss"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def config(store: Path, request: pytest.FixtureRequest) -> TrackingConfig:
    return settings_of(store, request.node.name)


def write(spool: Spool, steps: range) -> None:
    for step in steps:
        assert spool.append("metrics", {"step": step, "values": {LOSS: 1 / step}})


def steps_of(config: TrackingConfig, run_dir: Path) -> list[int]:
    run_id = json.loads((run_dir / "mlflow_run.json").read_text())["run_id"]
    history = MlflowClient(config.uri).get_metric_history(run_id, LOSS)
    return sorted(point.step for point in history)


def session(config: TrackingConfig, run_dir: Path, steps: range) -> MlflowTracker:
    tracker = MlflowTracker(config)
    tracker.start("run", run_dir, {}, "")
    for step in steps:
        tracker.log_metrics({LOSS: 1 / step}, step)
    tracker.finish("FINISHED")
    return tracker


def test_files_leave_a_part_of_the_spool_to_metrics(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", MIB)
    big = tmp_path / "big.wav"
    big.write_bytes(bytes(MIB // 4))
    assert [spool.keep(big) is not None for _ in range(5)] == [True, True, True, False, False]
    fields = {"step": 1, "values": {"key": "x" * 1000}}
    n_lines = 0
    while spool.append("metrics", fields):
        n_lines += 1
    assert 230 < n_lines < 262, "a quarter of a MiB, of about 1 KB each"
    assert spool.append("finish", {}, always=True)


def test_a_voice_counts_by_what_is_kept_of_it(tmp_path: Path) -> None:
    voice = tmp_path / "voice"
    voice.mkdir()
    (voice / "model.safetensors").write_bytes(bytes(MIB // 4))
    (voice / "trainer_state.pt").write_bytes(bytes(MIB // 2))
    spool = Spool(tmp_path / "spool", MIB)
    assert spool.keep(voice, always=True, skip=("trainer_state.pt",))
    assert spool.keep(voice / "model.safetensors")


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_tracker import MlflowTracker

logging.basicConfig(format="%(message)s")
run_dir = Path(sys.argv[1])
config = TrackingConfig(uri="http://127.0.0.1:1", flush_timeout_s=0)
tracker = MlflowTracker(config)
tracker.start("run", run_dir, {}, "")
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, unlimited[1]))
for step in range(1, 101):
    if step == 91:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    if step == 80:
        (run_dir / "big.png").touch()
        tracker.log_artifact(run_dir / "big.png")
    tracker.log_metrics({"train/total_loss": 1 / step}, step)
tracker.finish("FINISHED")
"""


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path) -> None:
    """Files may not grow beyond 5000 bytes for a while: the last write is a part of a line."""
    run_dir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(run_dir)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    spool = Spool(run_dir / SPOOL, MIB)
    records = list(spool.pending())
    steps = [record.fields["step"] for record in records if record.kind == "metrics"]
    kept = steps.index(91)
    assert steps == [*range(1, kept + 1), *range(91, 101)]
    assert 10 < kept < 80
    assert records[-1].kind == "finish"
    assert done.stderr.count("takes no more ([Errno") == 1
    told = f"{90 - kept} of metrics (steps {kept + 1} to 90), 1 others"
    assert done.stderr.count(told) == 1
    assert str(Spool(run_dir / SPOOL, MIB).dropped) == told, "a later session knows"


@pytest.mark.parametrize("sent_before", [False, True])
def test_a_killed_writer_that_goes_on_beside_its_successor(
    sent_before: bool, config: TrackingConfig, tmp_path: Path
) -> None:
    """It adds steps to its own file, which comes first, when later steps were sent already."""
    run_dir = tmp_path / "run"
    killed = Spool(run_dir / SPOOL, MIB)
    write(killed, range(1, 41))
    successor = Spool(run_dir / SPOOL, MIB)
    successor.append("start", {"run_name": "run", "params": {}, "tags": {}})
    write(successor, range(31, 61))
    sender = Sender(config, run_dir, successor)
    if sent_before:
        assert sender.drain()
        assert len(list(successor.folder.glob("*.jsonl"))) == 1, "the killed one's is removed"
    write(killed, range(41, 46))
    assert sender.drain()
    assert steps_of(config, run_dir) == list(range(1, 61))
    assert successor.n_pending() == 0


def test_a_writer_whose_file_was_sent_and_removed_begins_another(tmp_path: Path) -> None:
    writer = Spool(tmp_path, MIB)
    write(writer, range(1, 4))
    sender = Spool(tmp_path, MIB)
    assert sender.lock()
    for record in sender.pending():
        sender.commit(record)
    sender.sweep()
    assert not list(tmp_path.glob("*.jsonl"))
    write(writer, range(4, 6))
    assert [record.fields["step"] for record in sender.pending()] == [4, 5]


def test_points_that_were_dropped_are_recorded_when_they_are_computed_again(
    config: TrackingConfig, tmp_path: Path
) -> None:
    """What follows them was sent, so that they are below the highest step of their metric."""
    run_dir = tmp_path / "run"
    spool = Spool(run_dir / SPOOL, MIB)
    write(spool, range(1, 11))
    for step in range(11, 16):
        spool.drop(step)
    write(spool, range(16, 21))
    sync(config, run_dir)
    assert steps_of(config, run_dir) == [*range(1, 11), *range(16, 21)]
    tracker = session(config, run_dir, range(9, 25))
    assert steps_of(config, run_dir) == list(range(1, 25))
    session(config, run_dir, range(9, 27))
    assert steps_of(config, run_dir) == list(range(1, 27))
    assert tracker.run_id is not None
    tags = MlflowClient(config.uri).get_run(tracker.run_id).data.tags
    assert tags["dimts.dropped_records"] == "5: 5 of metrics (steps 11 to 15), 0 others"


def test_without_its_memory_the_sender_asks_the_store(
    config: TrackingConfig, tmp_path: Path
) -> None:
    """As after a crash of the machine, which can leave a file that was just replaced empty."""
    session(config, tmp_path / "run", range(1, 21))
    (tmp_path / "run" / SPOOL / "sent.json").write_bytes(b"")
    session(config, tmp_path / "run", range(11, 31))
    assert steps_of(config, tmp_path / "run") == list(range(1, 31))


def test_without_its_memory_a_killed_session_s_own_records_are_known(
    config: TrackingConfig, tmp_path: Path
) -> None:
    """Its file is still there when the memory is not, and is read before its successor's."""
    run_dir = tmp_path / "run"
    killed = Spool(run_dir / SPOOL, MIB)
    killed.append("start", {"run_name": "run", "params": {}, "tags": {}})
    write(killed, range(1, 21))
    assert Sender(config, run_dir, killed).drain()
    killed.unlock()
    (run_dir / SPOOL / "sent.json").write_bytes(b"")
    session(config, run_dir, range(11, 31))
    assert steps_of(config, run_dir) == list(range(1, 31))


def test_a_memory_older_than_the_store_records_nothing_twice(
    config: TrackingConfig, tmp_path: Path
) -> None:
    """As on the next machine, whose memory is of the last checkpoint that was sent."""
    run_dir, memory = tmp_path / "run", tmp_path / "run" / SPOOL / "sent.json"
    session(config, run_dir, range(1, 11))
    older = memory.read_bytes()
    session(config, run_dir, range(11, 19))
    memory.write_bytes(older)
    session(config, run_dir, range(11, 31))
    assert steps_of(config, run_dir) == list(range(1, 31))


def test_metrics_do_not_wait_for_artifacts_that_have_no_place(
    config: TrackingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, place = tmp_path / "run", tmp_path / "place"
    place.write_text("no folder")
    config = config.model_copy(update={"artifacts": str(place), "flush_timeout_s": 0.5})
    tracker = session(config, run_dir, range(1, 11))
    assert tracker.run_id is not None
    client = MlflowClient(config.uri)
    assert steps_of(config, run_dir) == list(range(1, 11))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert Spool(run_dir / SPOOL, MIB).n_pending() == 1
    assert "1 tracking records wait" in caplog.text
    place.unlink()
    assert sync(config, run_dir) == 1
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["config.yaml"]
    assert not list((run_dir / SPOOL / "files").iterdir())
    assert steps_of(config, run_dir) == list(range(1, 11))


def test_records_of_a_run_that_is_deleted_meanwhile_follow_in_a_new_one(
    config: TrackingConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    tracker = MlflowTracker(config.model_copy(update={"flush_timeout_s": 0.5}))
    tracker.start("run", run_dir, {}, "")
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


def test_the_pause_between_tries_stays_finite() -> None:
    assert [pause_after(n, 1.5) for n in (0, 1, 2, 5, 5000)] == [1.5, 3, 6, 30, 30]
    assert pause_after(3, 60) == 60

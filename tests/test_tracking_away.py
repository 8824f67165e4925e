"""A tracking server that is away for a part of a real training: nothing lost, nothing twice."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from away_fixtures import (
    GOES,
    RETURNS,
    Fault,
    Relay,
    Server,
    away_settings,
    check_each_point_once,
    relaying,
    run_id_of,
    train_watched,
    until,
)
from faults.head import free_port
from tracking_fixtures import make_store, waiting

from dimts.commands.voice_config import VoiceConfig
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_sender import REFUSED, TRIES
from dimts.tracking.tracker import Tracker

pytestmark = pytest.mark.integration

Voice = Callable[..., VoiceConfig]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(make_store(tmp_path_factory.mktemp("store")), free_port())
    yield server
    server.stop()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with relaying(server.address) as relay:
        yield relay


@pytest.fixture
def away(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Waits until the run has noticed that the server is away."""
    return lambda: until(lambda: "does not take records" in caplog.text)


def check_all_recorded(server: Server, run_dir: Path, status: str = "FINISHED") -> None:
    """Points, artifacts, model and status; and that nothing waits or was refused."""
    check_each_point_once(server.client, run_dir)
    run_id = run_id_of(run_dir)
    run = server.client.get_run(run_id)
    assert run.info.status == status
    assert "config.yaml" in [file.path for file in server.client.list_artifacts(run_id)]
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1
    [model] = server.client.search_logged_models([run.info.experiment_id])
    assert str(model.status) == "READY"
    assert waiting(run_dir) == []
    assert not (run_dir / REFUSED).exists()


def test_server_killed_for_the_middle_third_of_a_run(
    server: Server,
    voice: Voice,
    away: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """With requests always in flight: it is asked again as soon as it has answered."""
    launch = voice(*away_settings(server.address, request.node.name)).launch()

    def back() -> None:
        away()
        server.start()

    train_watched(launch, {GOES: server.kill, RETURNS: back})
    check_all_recorded(server, launch.run_dir)
    assert caplog.text.count("does not take records") == caplog.text.count("answers again") == 1


@pytest.mark.parametrize(
    "how", ["silent", *(pytest.param(how, marks=pytest.mark.slow) for how in ("locked", "busy"))]
)
def test_server_that_does_nothing_for_the_middle_third_of_a_run(
    how: str,
    server: Server,
    relay: Relay,
    voice: Voice,
    away: Callable[[], None],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes connections and never answers; its database is another's; or it is overloaded."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    address = relay.address if how == "busy" else server.address
    launch = voice(*away_settings(address, request.node.name)).launch()
    with closing(sqlite3.connect(server.database, isolation_level=None)) as database:

        def goes() -> None:
            if how == "silent":
                server.silence()
            elif how == "locked":
                database.execute("BEGIN EXCLUSIVE")
            else:
                relay.fault = lambda path, body: "busy"

        def returns() -> None:
            away()
            if how == "silent":
                server.go_on()
            elif how == "locked":
                database.rollback()
            else:
                relay.fault = lambda path, body: None

        train_watched(launch, {GOES: goes, RETURNS: returns})
    check_all_recorded(server, launch.run_dir)


def killed_with_the_server(server: Server, voice_file: Path, settings: list[str]) -> None:
    """The first part of a run: at step 10 its server is killed, at step 18 it is."""
    script = str(ROOT / "tests" / "away_fixtures.py")
    command = [sys.executable, script, str(voice_file), str(server.process.pid), *settings]
    dead = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    server.process.wait()


@pytest.mark.slow
def test_run_is_killed_while_the_server_is_away_and_ends_before_it_is_back(
    server: Server,
    voice_file: Path,
    voice: Voice,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    settings = [f"run.storage={tmp_path}", *away_settings(server.address, request.node.name)]
    killed_with_the_server(server, voice_file, settings)
    launch = voice(*settings, "tracking.flush_timeout_s=0").launch()
    recorder = train_watched(launch, {})
    assert recorder.trained == 15, "from the checkpoint of step 15; 16 to 18 are done twice"
    assert json.loads((launch.run_dir / "result.json").read_text())["status"] == "finished"
    assert f"dimts ui --sync {launch.run_dir}" in caplog.text

    server.start()
    command = [sys.executable, "jobs/ui.py", "--sync", str(launch.run_dir)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    experiment = server.client.get_experiment_by_name(request.node.name)
    run = server.client.get_run(run_id_of(launch.run_dir))
    assert experiment and experiment.experiment_id == run.info.experiment_id
    check_all_recorded(server, launch.run_dir)


@pytest.mark.slow
def test_run_is_killed_while_the_server_is_away_and_goes_on_when_it_is_back(
    server: Server, voice_file: Path, voice: Voice, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = [f"run.storage={tmp_path}", *away_settings(server.address, request.node.name)]
    killed_with_the_server(server, voice_file, settings)
    server.start()
    launch = voice(*settings).launch()
    recorder = train_watched(launch, {})
    assert recorder.trained == 15
    check_all_recorded(server, launch.run_dir)


def test_answers_that_are_lost_make_nothing_twice(
    server: Server, relay: Relay, voice: Voice, request: pytest.FixtureRequest
) -> None:
    """The server takes a batch, or makes the run, and dies before it says so."""
    name = request.node.name
    asked: dict[str, int] = {}

    def fault(path: str, body: bytes) -> Fault | None:
        asked[path] = asked.get(path, 0) + 1
        making = path.endswith(("/runs/create", "/logged-models"))
        # Twice, as MLflow's client asks again by itself.
        lost = path.endswith("/runs/log-batch") and asked[path] % 5 in (1, 2)
        return "lost" if lost or (making and asked[path] <= 2) else None

    relay.fault = fault
    launch = voice(*away_settings(relay.address, name)).launch()
    train_watched(launch, {})
    assert relay.n_faults >= 6
    check_all_recorded(server, launch.run_dir)
    experiment = server.client.get_experiment_by_name(name)
    assert experiment is not None
    [run] = server.client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id_of(launch.run_dir)


def test_errors_of_the_database_pass_and_what_is_refused_for_good_is_set_aside(
    server: Server, relay: Relay, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """MLflow answers BAD_REQUEST to both."""
    n_asked = 0

    def fault(path: str, body: bytes) -> Fault | None:
        nonlocal n_asked
        n_asked += path.endswith("/runs/log-batch") and b"metrics" in body
        return "bad_request" if b"odd" in body or 0 < n_asked < TRIES else None

    relay.fault = fault
    config = TrackingConfig(
        uri=relay.address, experiment=request.node.name, send_every_s=0.001, flush_timeout_s=60
    )
    tracker = Tracker(config, tmp_path)
    tracker.start("run", {}, "")
    for step in range(1, 11):
        tracker.log_metrics({"odd" if step == 5 else "even": 1.0}, step)
    tracker.finish("FINISHED")
    history = server.client.get_metric_history(run_id_of(tmp_path), "even")
    assert [point.step for point in history] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    [refused] = (tmp_path / REFUSED).read_text().splitlines()
    assert json.loads(refused)["values"] == {"odd": 1.0}


def test_nothing_of_much_that_waits_is_dropped(
    server: Server,
    relay: Relay,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    relay.fault = lambda path, body: "busy"
    config = TrackingConfig(
        uri=relay.address, experiment=request.node.name, send_every_s=0.001, flush_timeout_s=60
    )
    tracker = Tracker(config, tmp_path)
    tracker.start("run", {}, "")
    values = {f"key_{number:03d}_{'x' * 200}": 1.0 for number in range(300)}
    for step in range(1, 21):
        tracker.log_metrics(values, step)
    until(lambda: "does not take records" in caplog.text)
    relay.fault = lambda path, body: None
    until(lambda: "answers again" in caplog.text)
    tracker.log_metrics({"last": 1.0}, 21)
    tracker.finish("FINISHED")
    assert waiting(tmp_path) == []
    run_id = run_id_of(tmp_path)
    assert server.client.get_run(run_id).data.metrics == {**values, "last": 1.0}
    for key in (min(values), max(values)):
        history = server.client.get_metric_history(run_id, key)
        assert [point.step for point in history] == list(range(1, 21))

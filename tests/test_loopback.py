"""What the project starts is reached from this machine alone, unless it is told otherwise."""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faults.head import free_port
from mlflow.tracking import MlflowClient
from sockets_fixtures import family, is_loopback, listening

from dimts.cli import tcp_port
from dimts.tracking.config import TrackingConfig
from dimts.tracking.tracker import Tracker

pytest_plugins = ("tracking_fixtures",)

ROOT = Path(__file__).parents[1]
PASSWORD = "a-long-enough-password"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc")


@contextmanager
def ui(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`jobs/ui.py` in a folder, until it says where MLflow is."""
    job = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "ui.py"), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    try:
        lines = []
        for line in job.stdout:
            lines.append(line)
            if line.startswith("MLflow: "):
                break
        else:
            pytest.fail("".join(lines))
        yield job
    finally:
        job.send_signal(signal.SIGTERM)
        job.communicate()


def status(address: str, user: str | None = None, **body: str) -> int:
    """Of an answer over HTTP."""
    request = urllib.request.Request(address, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.integration
def test_ui_listens_on_the_loopback_interface_alone(store: Path) -> None:
    port = free_port()
    with ui(store, "--port", str(port)) as job:
        found = listening(job.pid)
        assert ("127.0.0.1", port) in found
        assert all(is_loopback(address) for address, _ in found), found
        assert status(f"http://127.0.0.1:{port}/") == 200
        for process in family(job.pid) - {job.pid}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert job.stdout is not None
        said = job.stdout.read().splitlines()
        assert job.wait() == 2
        assert said[-1] == "error: mlflow server ended with code -9; its messages are above"


@pytest.mark.integration
def test_ui_asks_everybody_for_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the head of a cluster, before there is a run."""
    store = tmp_path / "fresh"
    store.mkdir()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    arguments = ("--port", str(port), "--host", "0.0.0.0", "--auth", "--new")
    with ui(store, *arguments, MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD) as job:
        assert ("0.0.0.0", port) in listening(job.pid)
        for path in ("/", "/api/2.0/mlflow/experiments/get?experiment_id=0", "/graphql"):
            assert status(address + path) == 401
            assert status(address + path, "admin:password1234") == 401
        assert status(address, f"admin:{PASSWORD}") == 200
        users = f"{address}/api/2.0/mlflow/users/create"
        assert status(users, username="hana", password=PASSWORD) == 401
        assert status(users, f"admin:{PASSWORD}", username="hana", password=PASSWORD) == 200
        assert status(users, f"hana:{PASSWORD}", username="x", password=PASSWORD) == 403
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "hana")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        tracker = Tracker(TrackingConfig(uri=address, experiment="hers"), tmp_path)
        tracker.start("run", {"a": 1}, "")
        tracker.finish("FINISHED")
        assert tracker.run_id is not None
        assert MlflowClient(address).get_run(tracker.run_id).info.status == "FINISHED"
    assert (store / "mlflow_auth.db").stat().st_mode & 0o077 == 0
    assert PASSWORD not in (store / "mlflow_auth.ini").read_text()


def job(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of a `jobs/ui.py` that ends by itself."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_AUTH")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ui.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_ui_warns_in_one_line_who_may_reach_it(tmp_path: Path) -> None:
    code, lines = job(tmp_path, "--host", "0.0.0.0")
    assert code == 2
    assert len(lines) == 2
    assert "everyone who reaches port 5000 of 0.0.0.0 can read and delete runs" in lines[0]
    assert "docs/security.md" in lines[0]
    assert "no run was recorded here yet" in lines[1]
    assert len(job(tmp_path, "--host", "127.0.0.2")[1]) == 1


@pytest.mark.integration
def test_ui_with_passwords_needs_one_to_begin_with(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").symlink_to(store / "mlflow.db")
    code, [line] = job(tmp_path, "--auth", "--port", str(free_port()))
    assert code == 2
    assert "set MLFLOW_AUTH_ADMIN_PASSWORD" in line
    assert not (tmp_path / "mlflow_auth.db").exists()


def test_ui_listens_on_ipv4_addresses_and_ports_only(tmp_path: Path) -> None:
    code, lines = job(tmp_path, "--host", "::")
    assert code == 2
    assert "argument --host" in lines[-1]
    for port in ("99999", "0", "-1", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be 1 to 65535"):
            tcp_port(port)


RAY = """
import sys
from dimts.launch.ray_train import connected
from dimts.launch.settings import RayConfig

with connected(RayConfig(workers=1)):
    import ray

    class Worker:
        def ready(self):
            return True

    worker = ray.remote(Worker).remote()
    ray.get(worker.ready.remote())
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.integration
def test_ray_that_a_job_starts_listens_on_the_loopback_interface_alone(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", RAY],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline().strip() == "ready"
        found = listening(driver.pid)
    finally:
        driver.communicate("")
    assert len(found) > 3
    assert all(is_loopback(address) for address, _ in found), found
    assert not (tmp_path / ".ray").exists(), "a token in the home folder is asked for ever after"

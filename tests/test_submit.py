"""Jobs on a cluster, by `ray job submit`: what they bring along, how they run and are stopped."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from mlflow.tracking import MlflowClient
from tuning_fixtures import steps_of

from dimts.training.checkpoint import LATEST

ROOT = Path(__file__).parents[1]
RUNTIME_ENV = ROOT / "runtime_env.yaml"
MAX_UPLOAD = 10**6
"""Bytes. More would be a corpus or a voice, which are not to be uploaded with each job."""
SOURCE = {"data_prep", "jobs", "platform", "search_spaces"}
BIN = Path(sys.executable).parent
PATIENCE_S = 120


def test_what_is_uploaded_is_source_alone(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    excludes = yaml.safe_load(RUNTIME_ENV.read_text(encoding="utf-8"))["excludes"]
    create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == SOURCE
    assert not [name for name in names if name.endswith((".pyc", ".arrow", ".wav", ".safetensors"))]
    assert {"jobs/train.py", "platform/dimts/home.py", "search_spaces/quick.yaml"} <= set(names)
    assert package.stat().st_size <= MAX_UPLOAD


class Head(NamedTuple):
    """A Ray cluster of this machine that asks for a token.

    Attributes:
        environment: of commands that are to reach it.
    """

    environment: dict[str, str]

    def ray(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, given in the project's folder."""
        return subprocess.run(
            [str(BIN / "ray"), *arguments], cwd=ROOT, env={**self.environment, **more},
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip

    def submit(
        self, *entrypoint: str, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """The documented line."""
        return self.ray(
            "job", "submit", "--runtime-env", RUNTIME_ENV.name, *options, "--", *entrypoint
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    folder = tmp_path_factory.mktemp("h")
    own = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "DIMTS_"))}
    own |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2", "--port", str(port),
        "--node-ip-address", "127.0.0.1", "--dashboard-port", str(dashboard),
        "--dashboard-agent-listen-port", str(agent), "--disable-usage-stats",
    ]  # fmt: skip
    with (folder / "head.txt").open("w") as said:
        process = subprocess.Popen(
            command, env={n: v for n, v in own.items() if n != "RAY_API_SERVER_ADDRESS"},
            stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            started = Head(own)
            until = time.monotonic() + PATIENCE_S
            while started.ray("job", "submit", "--", "true").returncode:  # its agent comes last
                assert process.poll() is None, (folder / "head.txt").read_text()
                assert time.monotonic() < until, (folder / "head.txt").read_text()
                time.sleep(0.5)
            yield started
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)


@pytest.fixture(scope="module")
def home(voice_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all nodes see, with a voice's settings, whose paths are relative to it."""
    folder = tmp_path_factory.mktemp("home")
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["prepare"] |= {"features": "features/tiny", "engine": "auto"}
    settings["run"]["storage"] = "runs"
    settings["tracking"] = {"registered_model": "tiny"}
    settings["ray"] = {"workers": 1}
    (folder / "voice.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def job(home: Path, name: str, *arguments: str) -> tuple[str, ...]:
    command = ("env", f"DIMTS_HOME={home}", "python", f"jobs/{name}.py", "--config", "voice.yaml")
    return (*command, *arguments)


def test_job_runs_on_the_cluster_as_it_does_here(head: Head, home: Path) -> None:
    for name in ("prepare", "train"):
        done = head.submit(*job(home, name))
        assert done.returncode == 0, done.stdout + done.stderr
    assert "step     12" in done.stdout, "people follow it"
    assert (home / "runs" / "tiny" / LATEST).exists()
    assert not (ROOT / "runs" / "tiny").exists()
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    (model,) = client.search_registered_models()
    version = client.get_model_version_by_alias(model.name, "candidate")
    assert version.run_id is not None
    assert client.get_run(version.run_id).info.status == "FINISHED"


def test_job_that_is_stopped_leaves_a_checkpoint(head: Head, home: Path) -> None:
    many = ("--set", "run.name=stopped", "--set", "training.max_steps=100000")
    options = ("--no-wait", "--submission-id", "stopped")
    done = head.submit(*job(home, "train", *many), options=options)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, until = home / "runs" / "stopped", time.monotonic() + PATIENCE_S
    while not steps_of(run_dir):
        assert time.monotonic() < until, head.ray("job", "logs", "stopped").stdout
        time.sleep(0.1)
    assert head.ray("job", "stop", "stopped").returncode == 0
    reached = max(steps_of(run_dir))
    assert (run_dir / LATEST).resolve().name.endswith(f"_step{reached}")
    assert (
        "stopping after this step, with a checkpoint" in head.ray("job", "logs", "stopped").stdout
    )


def test_job_without_a_home_says_so(head: Head, home: Path) -> None:
    """What it wrote would be removed with Ray's copy of the project."""
    done = head.submit("python", "jobs/train.py", "--config", str(home / "voice.yaml"))
    assert done.returncode == 1
    assert "set DIMTS_HOME to the folder of corpora, features and runs" in done.stdout
    assert "Traceback" not in done.stdout


def test_nobody_submits_without_the_token(head: Head) -> None:
    done = head.ray("job", "list", RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode != 0
    assert "Authentication" in done.stdout + done.stderr

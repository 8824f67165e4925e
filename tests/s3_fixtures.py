"""A server that speaks S3, on this machine's loopback: Moto's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from faults.head import free_port

from dimts.bundles.bundle import WEIGHTS, resolve_bundle
from dimts.commands.voice_config import RunnableConfig
from dimts.launch.start import start_run
from dimts.storage.mirror import Mirror
from dimts.storage.paths import CACHE, AnyPath, StoragePath
from dimts.training.checkpoint import LATEST

START_S = 60.0
WAIT_S = 30.0


class S3:
    """The server; whoever asks boto3 or pyarrow finds it by the environment."""

    def __init__(self) -> None:
        port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def bucket(self) -> StoragePath:
        """A new one."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        until = time.monotonic() + START_S
        while True:
            try:
                boto3.client("s3").create_bucket(Bucket=name)
                return StoragePath(f"s3://{name}")
            except Exception:  # it has only just been started
                assert self.process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Inside it takes connections and answers none."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def bucket(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoragePath:
    """An empty bucket, and a machine that has seen nothing of it."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return s3.bucket()


def another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on this process has another machine's cache."""
    monkeypatch.setenv(CACHE, str(folder))


def put(folder: Path, remote: StoragePath) -> StoragePath:
    """A copy of a folder in object storage."""
    Mirror(folder, remote).push()
    return remote


def names(remote: StoragePath) -> list[str]:
    return [entry.name for entry in remote.entries()]


def until(happened: Callable[[], object], patience_s: float = WAIT_S) -> None:
    """Wait for something that happens elsewhere."""
    give_up = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.1)


def trained(config: RunnableConfig) -> Path:
    """The run's folder, when it has ended."""
    start_run(config.launch(), config.ray)
    return config.run.run_dir


def latest_weights(run: AnyPath) -> bytes:
    """Of the latest checkpoint of a run, wherever it is."""
    return (resolve_bundle(run / LATEST) / WEIGHTS).read_bytes()

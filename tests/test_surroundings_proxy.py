"""A proxy for the internet, beside which loopback and the cluster are reached directly."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from faults.head import free_port
from mlflow.tracking import MlflowClient
from surroundings_fixtures import http_server, job, jobs_on_ray, run
from tracking_fixtures import make_store

from dimts.core.environment import EXCEPTIONS, PROXIES, bypass_proxies

PROXY = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture
def server() -> Iterator[int]:
    """The port of an HTTP server that is no Ray."""
    with http_server() as port:
        yield port


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that reaches the internet by a proxy alone."""
    for name in PROXIES:
        monkeypatch.setenv(name, PROXY)
        monkeypatch.setenv(name.upper(), PROXY)
    for name in EXCEPTIONS:
        monkeypatch.setenv(name, "")


def test_loopback_is_reached_whatever_proxy_is_set(server: int, proxied: None) -> None:
    pages = [f"http://{host}:{server}" for host in ("127.0.0.1", "localhost")]
    for page in pages:
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get(page)
    bypass_proxies()
    for page in pages:
        assert requests.get(page).text == "ok"
        # `urlopen` keeps the proxies of its first call, for the tests after this one.
        with urllib.request.build_opener().open(page) as answer:
            assert answer.read() == b"ok"
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("http://192.0.2.1/")  # of an address for documentation: not one of ours


def test_hosts_that_need_no_proxy_are_kept_and_the_clusters_is_added(
    proxied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "intranet, 10.1.1.1")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head.example:10001")
    bypass_proxies()
    hosts = "intranet,10.1.1.1,localhost,127.0.0.1,::1,head.example"
    assert [os.environ[name] for name in EXCEPTIONS] == [hosts, hosts]


def test_without_a_proxy_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    before = dict(os.environ)
    bypass_proxies()
    assert dict(os.environ) == before


@pytest.mark.slow
def test_ray_tracking_and_ui_work_beside_a_proxy(
    voice_file: Path, tmp_path: Path, proxied: None
) -> None:
    store, port = make_store(tmp_path), free_port()
    command = job("ui", "--port", f"{port}")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        try:
            while line := ui.stdout.readline():
                if line.startswith("MLflow: "):
                    break
            assert line.startswith(f"MLflow: http://127.0.0.1:{port}")
            uri = f"tracking.uri=http://127.0.0.1:{port}"
            track = ("--set", "tracking.enabled=true", "--set", uri)
            assert run([*jobs_on_ray(voice_file, tmp_path)["train"], *track], tmp_path) == ["0"]
        finally:
            ui.send_signal(signal.SIGTERM)
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    [recorded] = client.search_runs(experiments)
    assert recorded.info.status == "FINISHED"
    assert len(client.get_metric_history(recorded.info.run_id, "train/total_loss")) == 12

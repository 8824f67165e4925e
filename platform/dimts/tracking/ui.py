"""MLflow's pages over the store of a config, on this machine only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path

from dimts.errors import UserError
from dimts.tracking.config import SQLITE, TrackingConfig, mask_secrets

HOST = "127.0.0.1"
START_TIMEOUT_S = 120
POLL_S = 0.3


def start_ui(config: TrackingConfig, port: int) -> subprocess.Popen[bytes]:
    """Start ``mlflow server`` on the loopback interface and wait until it answers.

    Args:
        config: says which store and which folder of artifacts.
        port: TCP port.

    Returns:
        The server; whoever called terminates it.

    Raises:
        UserError: the store is a server already, holds nothing yet, or the port is taken.
    """
    config = config.absolute()
    if config.is_server:
        raise UserError(f"tracking.uri is a server: open {mask_secrets(config.uri)} in a browser")
    if config.uri.startswith(SQLITE) and not Path(config.uri.removeprefix(SQLITE)).exists():
        raise UserError(f"{config.uri.removeprefix(SQLITE)}: no run was recorded here yet")
    with socket.socket() as probe:
        # A port that a former server has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"port {port} is taken; choose another one with --port") from None
    # A group of its own, so that its workers end with it and Ctrl-C reaches us alone.
    server = subprocess.Popen(
        _command(config, port), env=_environment(config), start_new_session=True
    )
    try:
        _wait(server, port)
    except BaseException:
        stop(server)
        raise
    return server


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def page(config: TrackingConfig, port: int) -> str:
    """Address of the experiment's runs; MLflow's front page is about something else."""
    base = f"http://{HOST}:{port}"
    query = urllib.parse.urlencode({"experiment_name": config.experiment})
    try:
        address = f"{base}/api/2.0/mlflow/experiments/get-by-name?{query}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            experiment = json.load(answer)["experiment"]["experiment_id"]
    except urllib.error.HTTPError:
        return f"{base}/#/experiments?workflowType=machine_learning"
    return f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning"


def _command(config: TrackingConfig, port: int) -> list[str]:
    assert config.artifact_root is not None, "only a server has no artifact root of its own"
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)),
        # Runs name their own folder; this one is for runs that come in through this server.
        *("--artifacts-destination", config.artifact_root, "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
    ]


def _environment(config: TrackingConfig) -> dict[str, str]:
    """The store goes by environment: a command line with a password is everybody's to read."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": config.uri,
        "MLFLOW_REGISTRY_STORE_URI": config.uri,
    }


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(int(START_TIMEOUT_S / POLL_S)):
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            pass
        try:
            code = server.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        raise UserError(f"mlflow server ended with code {code}; its messages are above")
    raise UserError(f"mlflow server did not answer on port {port} in {START_TIMEOUT_S} s")

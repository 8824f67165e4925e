"""MLflow's pages over a store; unless told otherwise for this machine only, without passwords."""

from __future__ import annotations

import errno
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from dimts.core.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.mlflow_client import check_database, connected

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
AUTH_CONFIG, AUTH_DATABASE = "mlflow_auth.ini", "mlflow_auth.db"
AUTH_SETTINGS = f"""\
; MLflow's basic authentication, as `dimts ui --auth` uses it. docs/security.md
[mlflow]
; what a user may do with the runs of others: NO_PERMISSIONS, READ, EDIT or MANAGE
default_permission = EDIT
database_uri = sqlite:///{AUTH_DATABASE}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
START_TIMEOUT_S = 120
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The server is on this machine, whatever proxy is set for others."""
POLL_S = 0.3


def start_ui(
    config: TrackingConfig, port: int, host: str = LOOPBACK, auth: bool = False, new: bool = False
) -> subprocess.Popen[bytes]:
    """Start ``mlflow server`` and wait until it answers; whoever called ends it by `stop`.

    Args:
        config: says which store and which folder of artifacts.
        port, host: TCP port, and IPv4 address of the interface to listen on.
        auth: ask everybody for a name and a password, see `auth_environment`.
        new: begin a record where there is none.

    Raises:
        UserError: the store is a server already, holds nothing yet, the port is taken, or users
            cannot be asked for passwords.
    """
    config = config.absolute()
    if config.is_server:
        raise UserError(f"tracking.uri is a server: open {config.shown} in a browser")
    if file := config.database:
        if not new:
            config.check_store()
        if file.exists():
            check_database(config)
        elif not os.access(file.parent, os.W_OK):
            raise UserError(
                f"{file}: cannot be made, as this user may not write into {file.parent}; "
                "set DIMTS_HOME or tracking.uri"
            )
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken; choose another one with --port") from None
        raise UserError(f"{host}:{port}: cannot listen there: {error.strerror}") from None
    assert config.artifact_root is not None, "only a server has no artifact root of its own"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)),
        # Runs name their own folder; this one is for runs that come in through this server.
        *("--artifacts-destination", config.artifact_root, "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),
        *(("--app-name", "basic-auth") if auth else ()),
    ]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
        **os.environ,
        # Not on the command line, which everybody may read, as a password may be in it.
        "MLFLOW_BACKEND_STORE_URI": config.uri,
        "MLFLOW_REGISTRY_STORE_URI": config.uri,
        **(auth_environment() if auth else {}),
    }
    # A group of its own, so that its workers end with it and Ctrl-C reaches us alone.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        _wait(server, address(host, port))
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


def address(host: str, port: int) -> str:
    """Where this machine itself finds the pages."""
    return f"http://{LOOPBACK if host == EVERYWHERE else host}:{port}"


def page(config: TrackingConfig, port: int, host: str = LOOPBACK) -> str:
    """Address of the experiment's runs; MLflow's front page is about something else."""
    with connected(config.absolute()) as client:
        experiment = client.get_experiment_by_name(config.experiment)
    runs = f"/{experiment.experiment_id}/runs" if experiment else ""
    return f"{address(host, port)}/#/experiments{runs}?workflowType=machine_learning"


def auth_environment() -> dict[str, str]:
    """What MLflow needs to ask for names and passwords; files for it are made where there are none.

    The user ``admin`` gets the password in ``MLFLOW_AUTH_ADMIN_PASSWORD`` at the first start, and
    makes other users. ``MLFLOW_AUTH_CONFIG_PATH`` names another configuration than ours.

    Raises:
        UserError: Flask-WTF is not installed, or there is no password for the first start.
    """
    if importlib.util.find_spec("flask_wtf") is None:
        raise UserError("--auth needs Flask-WTF: pip install 'dimts[auth]'")
    key = "MLFLOW_FLASK_SERVER_SECRET_KEY"
    given = {key: os.environ.get(key) or secrets.token_hex(32)}  # signs forms until the next start
    if "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        return given
    config, database = Path(AUTH_CONFIG).absolute(), Path(AUTH_DATABASE)
    if not database.exists():
        if not os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"):
            raise UserError("--auth: set MLFLOW_AUTH_ADMIN_PASSWORD, 12 characters or more, once")
        database.touch(mode=0o600)
    if not config.exists():
        config.write_text(AUTH_SETTINGS, encoding="utf-8")
    return given | {"MLFLOW_AUTH_CONFIG_PATH": str(config)}


def _wait(server: subprocess.Popen[bytes], base: str) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if (code := server.poll()) is not None:
            raise UserError(f"mlflow server ended with code {code}; its messages are above")
        with suppress(OSError), DIRECT.open(f"{base}/health", timeout=5):
            return
        time.sleep(POLL_S)
    raise UserError(f"mlflow server did not answer at {base} in {START_TIMEOUT_S} s")

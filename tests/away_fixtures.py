"""A tracking server that goes away, and trainings that see it go at a step of theirs.

python tests/away_fixtures.py VOICE SERVER_PID SETTING...   kills the server, then itself
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from mlflow.tracking import MlflowClient

from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.launch.run_logger import RunLogger
from dimts.launch.settings import Launch
from dimts.launch.start import keep_settings
from dimts.launch.training_run import run_training
from dimts.tracking.config import TrackingConfig
from dimts.tracking.ui import start_ui, stop

STEPS = 30
GOES, RETURNS = 10, 20
POLL_S = 0.02
PATIENCE_S = 300

Fault = Literal["busy", "lost", "bad_request"]
Events = Mapping[int, Callable[[], None]]


def until(happened: Callable[[], bool]) -> None:
    """Look until something has happened."""
    give_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(POLL_S)


class Server:
    """MLflow's server over an SQLite file, always on the same port."""

    def __init__(self, store: Path, port: int) -> None:
        self.database = store / "mlflow.db"
        self.address = f"http://127.0.0.1:{port}"
        self.client = MlflowClient(self.address)
        self._port = port
        self._shown = TrackingConfig(
            uri=f"sqlite:///{self.database}", artifacts=str(store / "proxied")
        )
        self.start()

    def start(self) -> None:
        self.process = start_ui(self._shown, self._port)

    def kill(self) -> None:
        """At once and without a word, workers included."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def silence(self) -> None:
        """It takes connections and answers none."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.go_on()
        stop(self.process)


class Relay(ThreadingHTTPServer):
    """Hands requests on to a server, but for those that `fault` names.

    Attributes:
        fault: of a request's path and body: ``busy`` answers 503, ``bad_request`` what MLflow
            answers when its database fails; ``lost`` lets the server do it, and hangs up.
        n_faults: how many there were.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.target = urlsplit(target)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.fault: Callable[[str, bytes], Fault | None] = lambda path, body: None
        self.n_faults = 0


class _Relayed(BaseHTTPRequestHandler):
    server: Relay

    def do_GET(self) -> None:
        body = self._body()
        fault = self.server.fault(self.path, body)
        self.server.n_faults += fault is not None
        if fault == "busy":
            self._answer(503, [("Retry-After", "3600")], b"")
        elif fault == "bad_request":
            self._answer(400, [], json.dumps({"error_code": "BAD_REQUEST"}).encode())
        else:
            status, headers, answer = self._forward(body)
            if fault == "lost":
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self._answer(status, headers, answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        target = self.server.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port)
        own = ("host", "transfer-encoding", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() == "content-type"]
        return answer.status, kept, answer.read()

    def _answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The test's output is for its own words."""


@contextmanager
def relaying(target: str) -> Iterator[Relay]:
    """A relay that serves."""
    with Relay(target) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay
        relay.shutdown()


class Watched(RunLogger):
    """A real run's recorder; after the steps of `events` something happens.

    Attributes:
        trained: steps done so far.
    """

    def __init__(self, launch: Launch, events: Events) -> None:
        super().__init__(launch)
        self._events = events
        self.trained = 0

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if "train/total_loss" in values:
            self.trained += 1
            self._events.get(step, lambda: None)()


def train_watched(launch: Launch, events: Events) -> Watched:
    """A whole run in this process."""
    launch.run_dir.mkdir(parents=True, exist_ok=True)
    keep_settings(launch.run_dir, launch.settings.config_yaml)
    logger = Watched(launch, events)
    logger.start()
    device = torch.device("cpu")
    logger.finish(run_training(launch.settings, logger, device))
    logger.measure(device)
    logger.end()
    return logger


def away_settings(address: str, experiment: str) -> list[str]:
    """Of a run of `STEPS` steps that is recorded at an address."""
    return [
        "run.name=run",
        f"training.max_steps={STEPS}",
        "training.validate_every=10",
        "training.checkpoint_every=5",
        "tracking.enabled=true",
        f"tracking.uri={address}",
        f"tracking.experiment={experiment}",
        "tracking.send_every_s=0.001",
        "tracking.flush_timeout_s=60",
    ]


def run_id_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "mlflow_run.json").read_text())["run_id"])


def told_points(run_dir: Path) -> dict[str, dict[int, set[float]]]:
    """Values of the run's own record; of a step that was done twice there may be two."""
    told: dict[str, dict[int, set[float]]] = {}
    for text in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(text)
        for key, value in event.get("values", {}).items():
            told.setdefault(key, {}).setdefault(event["step"], set()).add(value)
    return told


def check_each_point_once(client: MlflowClient, run_dir: Path) -> None:
    """MLflow has every point of the run's own record, with its value, and none of them twice."""
    run_id = run_id_of(run_dir)
    told = told_points(run_dir)
    assert len(told["train/total_loss"]) == STEPS
    recorded = client.get_run(run_id).data.metrics
    assert told.keys() <= recorded.keys()
    for key in recorded:
        history = client.get_metric_history(run_id, key)
        steps = [point.step for point in history]
        assert len(steps) == len(set(steps)), (key, steps)
        if key in told:
            assert sorted(steps) == sorted(told[key]), key
            assert all(point.value in told[key][point.step] for point in history), key


def kill_server_then_self(voice: Path, server_pid: int, settings: Sequence[str]) -> None:
    """A training whose server is killed while it goes on, and which is then killed itself."""
    launch = load_config(VoiceConfig, [voice], settings).launch()
    events = {
        GOES: lambda: os.killpg(server_pid, signal.SIGKILL),
        RETURNS - 2: lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    train_watched(launch, events)


if __name__ == "__main__":
    kill_server_then_self(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

"""Jobs as processes in odd surroundings, and a server that is no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tuning_fixtures import write_space

ROOT = Path(__file__).parents[1]
HANGS_S = 240
"""Longer than anything here takes on a busy machine."""
ON_RAY = ("--set", "ray.workers=1", "--set", "ray.cpus_per_worker=1")


def run(command: list[str], folder: Path, limit: float = HANGS_S, **changes: str) -> list[str]:
    """What a command says on standard error; its exit status comes first."""
    own = {n: v for n, v in os.environ.items() if n not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    done = subprocess.run(
        command, cwd=folder, env={**own, **changes}, capture_output=True, text=True, timeout=limit
    )
    return [str(done.returncode), *done.stderr.splitlines()]


def job(name: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]


def jobs_on_ray(voice_file: Path, folder: Path) -> dict[str, list[str]]:
    """A command of each job that uses Ray; they write to a folder."""
    voice = ("--config", voice_file, "--set", f"run.storage={folder}")
    features = ("--set", f"prepare.features={folder / 'features'}")
    return {
        "prepare": job("prepare", *voice[:2], *features, "--set", "prepare.engine=ray"),
        "train": job("train", *voice, *ON_RAY),
        "tune": job("tune", *voice, "--config", write_space(folder)),
        "demo": job("demo"),
        "pretrain": job("pretrain", "--config", ROOT / "jobs/configs/mix/natural.yaml"),
    }


CONNECTED = """
import signal, sys
from dimts.launch.ray_train import connected
from dimts.launch.settings import RayConfig

signals = []
with connected(RayConfig(workers=1)):
    import ray

    signal.signal(signal.SIGTERM, lambda *_: signals.append("SIGTERM"))
    print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
    sys.stdin.readline()
    print(signals, ray.get(ray.remote(lambda: "Ray works").remote()), flush=True)
"""


@contextmanager
def connected(folder: Path, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started Ray as jobs do, and a group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONNECTED], cwd=folder, env={**os.environ, **changes}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def http_server() -> Iterator[int]:
    """The port of an HTTP server that is no Ray."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.server_address[1]
        listening.shutdown()

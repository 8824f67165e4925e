"""A Ray cluster of this machine for benchmarks and tests of submitted jobs: it asks for a token."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dimts.core.errors import UserError
from faults.injection import ROOT

RUNTIME_ENV = "runtime_env.yaml"
BIN = Path(sys.executable).parent
PATIENCE_S = 300


class Head(NamedTuple):
    """The cluster.

    Attributes:
        environment: of commands that are to reach it.
    """

    environment: dict[str, str]

    def ray(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, given in the project's folder; `more` is added to its environment."""
        return subprocess.run(
            [str(BIN / "ray"), *arguments], cwd=ROOT, env={**self.environment, **more},
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip

    def submit(
        self, *entrypoint: str, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """The line that docs/cluster.md shows."""
        return self.ray("job", "submit", "--runtime-env", RUNTIME_ENV, *options, "--", *entrypoint)


@contextmanager
def head(folder: Path, cpus: int = 2) -> Iterator[Head]:
    """Inside, it runs; what it says is in `folder`.

    Raises:
        UserError: it does not start.
    """
    port, dashboard, agent = free_port(), free_port(), free_port()
    own = {n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "DIMTS_"))}
    own |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", str(cpus),
        "--port", str(port), "--node-ip-address", "127.0.0.1", "--dashboard-port", str(dashboard),
        "--dashboard-agent-listen-port", str(agent), "--disable-usage-stats",
    ]  # fmt: skip
    said = folder / "head.txt"
    with said.open("w") as console:
        process = subprocess.Popen(
            command, env=own, stdout=console, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        started = Head(own | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"})
        until = time.monotonic() + PATIENCE_S
        while not (
            answers(agent)  # which comes last; a command of Ray's takes seconds to say so
            and started.ray("job", "submit", "--", "true").returncode == 0
        ):
            if process.poll() is not None or time.monotonic() > until:
                raise UserError(f"the head of Ray does not start; see {said}")
            time.sleep(0.5)
        yield started
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)


def answers(port: int) -> bool:
    """Whether a TCP port of this machine is listened on."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

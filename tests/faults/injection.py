"""A real training whose parts are killed, and what it comes to: for tests and benchmarks.

The training is `jobs/train.py` in a process of its own. What happens is read from the run's
record, one line a step; nothing in the program knows that it is watched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dimts.bundles.bundle import resolve_bundle
from dimts.core.errors import UserError
from dimts.tracking.event_log import EVENTS
from dimts.training.checkpoint import LATEST
from faults.claims import read_claim

ROOT = Path(__file__).resolve().parents[2]
MARK = "DIMTS_INJECTION"
POLL_S = 0.02
PATIENCE_S = 300.0
ENDS_WITHIN_S = 120.0


class Training:
    """One run, started as often as it takes.

    Args:
        configs: of `jobs/train.py`.
        overrides: likewise; ``run.storage`` and ``run.name`` are among them.
        run_dir: the run's folder.
        environment: for its processes, beside this one's.

    Attributes:
        process: the command that was given last.
        starts: how often it was given.
        saved_after_s: seconds from the last SIGTERM to the checkpoint; None if there was none.
    """

    def __init__(
        self,
        configs: Sequence[Path],
        overrides: Sequence[str],
        run_dir: Path,
        environment: Mapping[str, str] | None = None,
    ):
        command = [sys.executable, str(ROOT / "jobs" / "train.py")]
        command += [part for config in configs for part in ("--config", str(config))]
        self._command = [*command, *(part for o in overrides for part in ("--set", o))]
        paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        own = {"RAY_AUTH_MODE": "disabled", MARK: uuid.uuid4().hex, **os.environ}
        self._environment = own | {"PYTHONPATH": paths} | dict(environment or {})
        self.mark = self._environment[MARK]
        self.run_dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.saved_after_s: float | None = None

    def start(self) -> None:
        """Give the command once more; what it says is appended to ``console.txt``."""
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, start_new_session=True,
                stdout=console, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.starts += 1

    @property
    def console(self) -> Path:
        """What the commands have said so far."""
        return self.run_dir.with_name(f"{self.run_dir.name}-console.txt")

    def steps(self) -> list[tuple[int, float]]:
        """Steps of training in the order in which they were recorded, each with its loss."""
        return [(e["step"], e["values"]["train/total_loss"]) for e in self.events()
                if "train/total_loss" in e.get("values", {})]  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """The run's record."""
        file = self.run_dir / EVENTS
        found = []
        for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def texts(self, beginning: str) -> list[str]:
        """What people were told that holds some words."""
        return [e["text"] for e in self.events() if beginning in e.get("text", "")]

    def reached(self) -> int:
        """The furthest step so far."""
        return max((step for step, _ in self.steps()), default=0)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_for(
        self, happened: Callable[[], bool], what: str, patience_s: float = PATIENCE_S
    ) -> float:
        """Look until something has happened; seconds that it took.

        Raises:
            UserError: it did not, or the training ended before.
        """
        start = time.monotonic()
        while not happened():
            if not self.running() and not happened():
                raise UserError(f"the training ended before {what}; see {self.console}")
            if time.monotonic() - start > patience_s:
                raise UserError(f"not in {patience_s:g} s: {what}; see {self.console}")
            time.sleep(POLL_S)
        return time.monotonic() - start

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.reached() >= step, f"step {step}")

    def wait_for_end(self) -> int:
        """Wait until the command has ended by itself; its exit status."""
        assert self.process is not None
        return self.process.wait(ENDS_WITHIN_S + PATIENCE_S)

    def checkpoint(self) -> Path | None:
        """The latest one."""
        latest = resolve_bundle(self.run_dir / LATEST)
        return latest if latest.is_dir() else None

    def weights(self) -> bytes:
        return (resolve_bundle(self.run_dir / LATEST) / "model.safetensors").read_bytes()

    # Whom to kill

    def rank_0(self) -> int:
        """The process that writes into the run's folder."""
        claim = read_claim(self.run_dir)
        assert claim is not None
        return int(claim["pid"])

    def worker(self, rank: int) -> int:
        """The process of a worker; of two, rank 1 is the one that is not rank 0."""
        if rank == 0:
            return self.rank_0()
        first = self.rank_0()
        others = [p for p in self.processes("RayTrainWorker") if p != first]
        if len(others) != 1:
            raise UserError(f"{len(others)} workers beside rank 0, not one")
        return others[0]

    def processes(self, name: str = "") -> list[int]:
        """Processes of this training and its Ray whose command line holds `name`."""
        return [p for p in marked(self.mark) if name in command_line(p)]

    def raylet(self) -> int:
        """The raylet that started rank 0."""
        parent = parent_of(self.rank_0())
        assert parent is not None
        return parent

    def kill_driver(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End what is still running of it."""
        if self.running():
            self.kill_driver()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                kill(pid)

    def terminate(self) -> int:
        """SIGTERM to the command, as a cluster's scheduler sends it; its exit status."""
        assert self.process is not None
        signalled = time.time()
        self.process.send_signal(signal.SIGTERM)
        code = self.wait_for_end()
        if checkpoint := self.checkpoint():
            self.saved_after_s = checkpoint.stat().st_ctime - signalled
        return code


def marked(mark: str) -> list[int]:
    """Processes whose environment has a mark, which they got from whoever started them."""
    found, text = [], f"{MARK}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def with_files_in(folder: Path) -> list[int]:
    """Processes that have a file in a folder open: agents of Ray hide their environment."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it was closed meanwhile
            if os.readlink(file).startswith(f"{folder}/"):
                found.add(int(file.parts[2]))
    return sorted(found)


def command_line(pid: int) -> str:
    """What a process calls itself; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def parent_of(pid: int) -> int | None:
    """The process that another one is of; None if that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[1])
    return None


def kill(pid: int) -> None:
    """SIGKILL, which no process hears."""
    os.kill(pid, signal.SIGKILL)

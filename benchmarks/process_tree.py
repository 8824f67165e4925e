"""A command in a process of its own, and what all of its processes take together.

Memory is counted as the kernel accounts for it (`/proc/PID/smaps_rollup`), each page once however
many processes share it: anonymous pages and shared memory, Ray's object store being the latter.
Pages of mapped files are left out, as they are copies of what is on disk and the kernel drops them
when it wants room; `mapped` has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dimts.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MEMORY_EVERY_S = 0.25
POLL_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Spent(NamedTuple):
    """What a command took.

    Attributes:
        seconds: from the command to its end.
        begun: seconds until there was a file of the pattern that was waited for, or `seconds`.
        cpu: seconds of all processes, as far as they lived at a sample.
        memory: bytes, the most at a sample, of what would be lost: anonymous and shared.
        mapped: bytes, the most at a sample, of files.
    """

    seconds: float
    begun: float
    cpu: float
    memory: int
    mapped: int


def measure(words: Sequence[str], folder: Path, pattern: str) -> Spent:
    """Run a Python script of the project to its end.

    Args:
        words: the script, relative to the project, and its arguments.
        folder: that is looked into.
        pattern: of a file there whose appearance tells that the work itself has begun.

    Raises:
        UserError: it failed.
    """
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    environment = {"RAY_AUTH_MODE": "disabled", **os.environ, "PYTHONPATH": paths}
    cpu: dict[tuple[int, str], float] = {}
    memory = mapped = 0
    begun, sampled = 0.0, 0.0
    with tempfile.TemporaryFile("w+") as said:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=said, stderr=said
        )
        while process.poll() is None:
            now = time.monotonic() - start
            if not begun and any(folder.glob(pattern)):
                begun = now
            if now - sampled >= MEMORY_EVERY_S:
                sampled = now
                samples = [_memory(pid) for pid in tree(process.pid, cpu)]
                memory = max(memory, sum(own for own, _ in samples))
                mapped = max(mapped, sum(file for _, file in samples))
            time.sleep(POLL_S)
        seconds = time.monotonic() - start
        if process.returncode:
            said.seek(0)
            raise UserError(f"{words[0]} failed: {said.read()[-2000:].strip()}")
    return Spent(seconds, begun or seconds, sum(cpu.values()), memory, mapped)


def tree(root: int, cpu: dict[tuple[int, str], float]) -> list[int]:
    """A process and all that descend from it; notes the CPU seconds of each, by id and start."""
    stats = {int(p.name): _stat(p) for p in Path("/proc").glob("[0-9]*")}
    children: dict[int, list[int]] = {}
    for pid, facts in stats.items():
        if facts:
            children.setdefault(int(facts[1]), []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    for pid in found:
        if stat := stats.get(pid):
            cpu[pid, stat[19]] = (int(stat[11]) + int(stat[12])) / TICKS
    return found


def _stat(process: Path) -> list[str]:
    """State, parent and so on."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _memory(pid: int) -> tuple[int, int]:
    """Bytes that are a process's share of anonymous and shared memory, and of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:  # it has ended
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    if not kib:
        return 0, 0
    return (kib["Pss_Anon"] + kib["Pss_Shmem"]) * 1024, kib["Pss_File"] * 1024

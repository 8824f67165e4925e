"""What this process may use of its machine, and what a measured figure depends on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

WAIT_POLICY = "OMP_WAIT_POLICY"


def n_cores() -> int:
    """Whole cores that this process may use: of those it may run on, as many as its quota pays for.

    Containers, Kubernetes and batch systems restrict a process by affinity or by a quota of CPU
    time (control groups of version 1 or 2); the machine's own count says nothing then.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota() if sys.platform == "linux" else None
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(
    proc: Path = Path("/proc/self"), cgroups: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Cores' worth of CPU time that the control groups of this process leave it; None: no limit.

    Args:
        proc: folder of the process, with its ``cgroup`` file.
        cgroups: where the hierarchies are mounted.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst ("cpu.max") and
    Documentation/scheduler/sched-bwc.rst (``cpu.cfs_quota_us``).
    """
    limits = []
    for line in _read(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        folder = root / path.lstrip("/")
        if not folder.is_dir():  # in a container the path may be that of the host
            folder = root
        for group in (folder, *folder.parents):  # a group has no more than those around it
            limits.append(_quota(group, bool(controllers)))
            if group == root:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(group: Path, version_1: bool) -> float | None:
    """A group's quota over its period."""
    if version_1:
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    else:
        words = _read(group / "cpu.max").split()
    if len(words) != 2 or not words[0].isdecimal() or not words[1].isdecimal():  # "max", or -1
        return None
    return int(words[0]) / max(1, int(words[1]))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def sleep_while_waiting() -> None:
    """Let threads of OpenMP that wait for others sleep, in processes that load torch from now on.

    By default they keep their cores busy, so that two of them beside other work are many times
    slower than one. Asleep they cost a step on quiet cores about a tenth (docs/benchmarks.md).
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


def waits_asleep() -> bool:
    """Whether threads that wait for others leave their cores to other work."""
    return os.environ.get(WAIT_POLICY, "").upper() == "PASSIVE"


def cpu_name() -> str:
    """The processor's name."""
    lines = _read(Path("/proc/cpuinfo")).splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

"""What this process may use of its machine."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def n_cores() -> int:
    """Cores that this process may use, by its affinity and its container's quota of CPU time."""
    import joblib  # a quarter of a second

    cores: int = joblib.cpu_count()
    return cores


def sleep_while_waiting() -> None:
    """Let threads of OpenMP that wait for others sleep, in processes that load torch from now on.

    By default they keep their cores busy, so that two of them beside other work are many times
    slower than one. Asleep they cost a step on quiet cores about a tenth (docs/benchmarks.md).
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


def waits_asleep() -> bool:
    """Whether threads that wait for others leave their cores to other work."""
    return os.environ.get(WAIT_POLICY, "").upper() == "PASSIVE"

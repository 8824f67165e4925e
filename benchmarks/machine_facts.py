"""What machine a benchmark ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from dimts.core.environment import n_cores


def machine_facts(packages: Sequence[str]) -> dict[str, object]:
    """Facts to stand under a table; the load is that of the minute before the call."""
    import torch  # a second, which who counts cores need not wait

    facts: dict[str, object] = {
        "cpu": f"{cpu_name()}, {n_cores()} cores",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "software": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages),
    }
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        name = torch.cuda.get_device_name(0)
        facts["gpu"] = f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    return facts


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

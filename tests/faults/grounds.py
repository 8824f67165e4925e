"""What faults happen to, all on this machine: nodes of Ray to lose, a disk that can be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dimts.core.environment import NO_DASHBOARD
from dimts.core.errors import UserError
from faults.injection import kill

FASTER_HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""How soon a node that does not answer is given up for dead; Ray's own settings wait longer."""
DISK_MB = 96


@contextmanager
def small_disk(folder: Path, size_mb: int = DISK_MB) -> Iterator[None]:
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise UserError("full_disk: to make a small disk takes the rights of root; leave it out")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def cluster(n_nodes: int, environment: dict[str, str]) -> Iterator[Any]:
    """Ray on several nodes of one core each, on this machine; a head without any beside them.

    `environment` is what its processes get, and becomes that of drivers.
    """
    from ray.cluster_utils import Cluster
    from ray.experimental import internal_kv

    store = internal_kv.internal_kv_get_gcs_client()
    own = {**FASTER_HEALTH, **NO_DASHBOARD, **environment}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    try:
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(n_nodes):
            nodes.add_node(num_cpus=1)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    environment |= {"RAY_ADDRESS": nodes.address}
    try:
        yield nodes
    finally:
        for node in [*nodes.worker_nodes, nodes.head_node]:
            nodes.remove_node(node, allow_graceful=False)
        # A head takes this over. Left at one that is gone, it ends this process within a minute.
        internal_kv._internal_kv_reset()
        if store is not None:
            internal_kv._initialize_internal_kv(store)


def lose(nodes: Any, raylet: int) -> None:
    """A node is gone. Its raylet is waited for: unburied, its workers would take it for alive."""
    node = next(n for n in nodes.list_all_nodes() if raylet_of(n) == raylet)
    with suppress(ProcessLookupError):
        kill(raylet)
    node.all_processes["raylet"][0].process.wait()


def raylet_of(node: Any) -> int:
    """The process of a node of `ray.cluster_utils.Cluster`."""
    return int(node.all_processes["raylet"][0].process.pid)

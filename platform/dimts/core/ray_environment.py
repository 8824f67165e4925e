"""Ray as it is started for one job: quiet, small, and reached from this machine alone."""

from __future__ import annotations

import os
import sys

NO_DASHBOARD = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
"""Ray Train asks the dashboard whether its controller is alive. Where there is none it is looked
for so long that a short run ends twelve seconds later; with this the answer comes at once."""
OWN_RAY = {
    # Everything listens on 127.0.0.1: Ray's switch for systems on which it knows no clusters.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Unset, a local Ray writes a token into the home folder and asks for it ever after.
    "RAY_AUTH_MODE": "disabled",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "10000",
    # By default a driver waits a minute for a control store that was ended under it.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "MALLOC_ARENA_MAX": "2",
    # Under `uv run` Ray would send its workers the project folder, runs and features with it.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
"""An idle worker wakes a hundred times a second to look for signals. Where torch has all cores,
each time holds up a step. So those that Ray started ahead, or that data preparation leaves, end
after ten seconds, instead of never. Memory that one of a worker's thirty threads has freed is of no
use to the others where each may have a heap of its own."""


def named_cluster() -> str | None:
    """`RAY_ADDRESS`, where it names a cluster; None where Ray is started on this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def prepare_own_ray() -> None:
    """Set what Ray reads when it is loaded, unless a cluster is named; to be called before that."""
    if named_cluster() or "ray" in sys.modules:
        return
    for name, value in OWN_RAY.items():
        os.environ.setdefault(name, value)
    # Of a cluster that jobs are submitted to, which would not know this one's controller.
    os.environ.update(NO_DASHBOARD)

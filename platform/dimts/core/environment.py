"""What libraries read from the environment when they are loaded, and which cores there are.

Processes that this one starts take all of it over.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT_POLICY = "OMP_WAIT_POLICY"
IN_CACHE = {
    "DIMTS_CACHE": "dimts",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TRITON_CACHE_DIR": "triton",
}
"""Variables by which a cache is moved -> its folder in ours."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
"""Libraries read one or the other, and those that read both do not agree on which one wins."""
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


@contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Inside, variables that the user has not set are, for this process and those it starts."""
    own = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ |= own
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def n_cores() -> int:
    """Cores that this process may use, by its affinity and its container's quota of CPU time."""
    from joblib import cpu_count  # a quarter of a second

    cores: int = cpu_count()
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


def choose_caches() -> None:
    """Name folders below the system's temporary one, unless the user's own cache can be written.

    The environment is changed, for this process and those it starts: to be called before numba and
    matplotlib are imported.
    """
    home = os.path.expanduser("~")
    own = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    if _can_be_written(own):
        return
    with suppress(OSError):  # no temporary folder either: whoever needs a cache says so
        folder = _folder_of_this_user()
        os.environ["XDG_CACHE_HOME"] = str(folder)
        if not os.path.isabs(home):  # an id that no home is known of
            os.environ["HOME"] = str(folder)
        for variable, name in IN_CACHE.items():
            os.environ.setdefault(variable, str(folder / name))


def _can_be_written(folder: str) -> bool:
    if not os.path.isabs(folder):
        return False
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _folder_of_this_user() -> Path:
    """The same each time, unless someone else has made it: compiled code is run from there."""
    folder = Path(tempfile.gettempdir()) / f"dimts-cache-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if is_ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    return Path(tempfile.mkdtemp(prefix="dimts-cache-"))


def bypass_proxies() -> None:
    """Except loopback and the host of `RAY_ADDRESS` from the proxy, if one is set.

    To be called before processes are started, which take it over.
    """
    if not any(name.lower() in PROXIES and value for name, value in os.environ.items()):
        return
    direct = [os.environ.get(name, "") for name in EXCEPTIONS]
    hosts = [host.strip() for part in direct for host in part.split(",")] + list(LOOPBACK)
    address = os.environ.get("RAY_ADDRESS", "")
    with suppress(ValueError):  # what is wrong with it is said where Ray is started
        hosts.append(urllib.parse.urlsplit(f"//{address.rpartition('://')[2]}").hostname or "")
    os.environ.update(dict.fromkeys(EXCEPTIONS, ",".join(dict.fromkeys(filter(None, hosts)))))


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

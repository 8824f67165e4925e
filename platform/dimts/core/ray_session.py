"""Connects a job to Ray: to the cluster that `RAY_ADDRESS` names, or to one that ends with the job.

The only place that calls `ray.init`. Surroundings in which Ray hangs, or ends with something that
nobody understands, are found here before it is called.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from dimts.core.environment import n_cores, named_cluster, prepare_own_ray
from dimts.core.errors import UserError

WAY_OUT = "start the cluster, or unset RAY_ADDRESS to use this machine alone"
ANSWER_S = 10.0
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The beginning of each connection of HTTP/2, which gRPC uses: its preface and empty settings. A
server answers with its own settings."""
FRAME_HEADER, FRAME_TYPE, SETTINGS = 9, 3, 4
MAX_SOCKET_PATH = 103
"""Bytes of a socket's name on macOS; Linux has four more."""
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest of those in Ray's folder."""
SHORT = "/tmp"
MIN_FREE = 16_000_000
"""Bytes. The logs and sockets of an hour take less; without any room Ray's control store does not
come up, which takes 45 s to notice."""


@contextmanager
def ray_session(logging_level: int, num_cpus: int | None = None) -> Iterator[bool]:
    """Inside, this process is connected to Ray; one that it started ends with it.

    Yields whether Ray was started here, and so is of this machine and this job alone.

    Args:
        logging_level: of Ray in this process.
        num_cpus: cores that a Ray that is started here hands out; by default, those that
            this process may use.

    Raises:
        UserError: the cluster does not answer, or there is no room for Ray on this machine.
    """
    prepare_own_ray()
    import ray

    if ray.is_initialized():
        yield False
        return
    check_ray()
    named = named_cluster()
    with ExitStack() as stack:
        if named:
            try:
                # Workers of another node have its environment, not this process's.
                hook = {"worker_process_setup_hook": "dimts.core.environment.choose_caches"}
                ray.init(log_to_driver=False, logging_level=logging_level, runtime_env=hook)
            except ConnectionError as error:
                raise UserError(f"RAY_ADDRESS={named}: {error}; {WAY_OUT}") from error
        else:
            folder = stack.enter_context(_session_folder())
            # It warns of a small /dev/shm, although hardly anything is kept there.
            logging.getLogger("ray._private.services").setLevel(logging.ERROR)
            with _own_process_groups():
                ray.init(
                    address="local",
                    num_cpus=num_cpus or n_cores(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging_level,
                    _temp_dir=folder,
                )
        stack.callback(ray.shutdown)
        yield not named


def check_ray() -> None:
    """Do nothing if the cluster of `RAY_ADDRESS` answers, or without one if a Ray has room here.

    Ray itself tries for minutes, and then ends this process. Commands ask before they load what
    they train with, so that the answer comes at once.

    Raises:
        UserError: it does not answer, this is no address of a cluster, or there is no room.
    """
    if not (named := named_cluster()):
        _check_room(_own_folder() or Path(SHORT))
        return
    from ray._private.services import canonicalize_bootstrap_address

    try:
        # It takes the node's own address for localhost, and looks for what `auto` is.
        host, _, text = (canonicalize_bootstrap_address(named) or "").rpartition(":")
        host, port = host.strip("[]"), int(text)
    except ConnectionError:  # `auto`
        raise UserError(f"RAY_ADDRESS={named}: no Ray cluster runs here; {WAY_OUT}") from None
    except ValueError:
        raise UserError(
            f"RAY_ADDRESS={named}: must be HOST:PORT of a cluster, such as 10.0.0.1:6379; name "
            "that, or unset RAY_ADDRESS to use this machine alone"
        ) from None
    try:
        if _speaks_grpc(host, port):
            return
        reason = "what listens there is not Ray"
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
    raise UserError(
        f"RAY_ADDRESS={named}: no Ray cluster answers at {host}:{port} ({reason}); {WAY_OUT}"
    )


def _speaks_grpc(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return True
        connection.sendall(GREETING)
        answer = connection.recv(FRAME_HEADER)
        return len(answer) == FRAME_HEADER and answer[FRAME_TYPE] == SETTINGS


@contextmanager
def _session_folder() -> Iterator[str | None]:
    """A short-named folder for Ray's sockets and logs where its default is too long; else None."""
    if _own_folder():
        yield None
        return
    with tempfile.TemporaryDirectory(
        prefix="dimts-ray-", dir=SHORT, ignore_cleanup_errors=True
    ) as folder:
        yield f"{folder}/ray"  # which Ray lets everybody write to; nobody else enters ours


def _own_folder() -> Path | None:
    """Ray's default, where its name is short enough."""
    from ray._common.utils import get_default_ray_temp_dir

    default = Path(get_default_ray_temp_dir())
    return default if len(os.fsencode(default / SOCKET)) <= MAX_SOCKET_PATH else None


def _check_room(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE:
        raise UserError(
            f"{existing}: has {free / 1e6:.0f} MB free, and Ray needs {MIN_FREE / 1e6:.0f} MB for "
            "its sockets and logs; make room, or set TMPDIR to another folder"
        )


@contextmanager
def _own_process_groups() -> Iterator[None]:
    """Inside, Ray's daemons are started in process groups of their own.

    A terminal and `timeout` signal a whole group. Ray's control store would end with the job that
    is just asking it for a last checkpoint. Its workers have groups of their own already. Where
    the kernel does not end the daemons with the job, Ray ends them by their group.
    """
    from ray._private import services

    if sys.platform != "linux":
        yield
        return
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]

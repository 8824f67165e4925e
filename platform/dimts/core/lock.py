"""One process at a time in a folder: a lock that dies with its process, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dimts.core.errors import UserError
from dimts.core.posix import fcntl

POLL_S = 0.2


@contextmanager
def locked(file: Path, busy: Callable[[str], str], wait_s: float = 0.0) -> Iterator[None]:
    """Inside, no other process is inside with the same file.

    Args:
        file: made when missing; its folder exists. The holder's process id stands in it.
        busy: what to say if another process is inside, given its id.
        wait_s: how long to wait for that one to end, in seconds.

    Raises:
        UserError: another process is inside and does not end.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + wait_s
    try:
        while not taken(descriptor):
            if time.monotonic() >= until:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                raise UserError(busy(holder or "unknown"))
            time.sleep(POLL_S)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def taken(descriptor: int) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

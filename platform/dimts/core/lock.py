"""One process at a time in a folder: a lock that dies with its process, however that ends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dimts.core.errors import UserError
from dimts.core.posix import fcntl

POLL_S = 0.2
HOLDER = "process PID"
"""In what is said while another process is inside."""


@contextmanager
def locked(file: Path, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Inside, no other process is inside with the same file.

    Args:
        file: made when missing, with its folder. The holder's process id stands in it.
        busy: what to say if another process is inside, with `HOLDER` where it is named.
        wait_s: how long to wait for that one to end, in seconds.

    Raises:
        UserError: another process is inside and does not end, or the file cannot be made.
        OSError: who writes is not allowed to.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise  # the command says where it may write
        raise UserError(f"{file.parent}: cannot be written: {error.strerror}") from error
    until = time.monotonic() + wait_s
    try:
        while not taken(descriptor):
            if time.monotonic() >= until:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                raise UserError(busy.replace(HOLDER, f"process {holder or 'unknown'}"))
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

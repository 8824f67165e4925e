"""Printing that never ends a job: any character, and when nobody reads any more."""

from __future__ import annotations

import errno
import io
import sys
from contextlib import suppress
from typing import Any


def print_whatever_happens() -> None:
    r"""Have stdout and stderr write what their encoding lacks as ``\u1230``, and outlive readers.

    Streams that someone else has put in their place are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        with suppress(OSError):
            stream.flush()
        printing = io.TextIOWrapper(
            io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False)),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering or stream.write_through,
        )
        setattr(sys, name, printing)


class _Outlet(io.FileIO):
    """Drops what is written after the other end was closed: ``| head``, a terminal that is gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(data).nbytes

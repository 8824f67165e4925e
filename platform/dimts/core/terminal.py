"""Printing that never ends a job: any character, and when nobody reads any more."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

UTF8_MODE = "PYTHONUTF8"


def use_utf8() -> None:
    """Start this process again in UTF-8 mode, if its arguments and file names are not UTF-8.

    Python does so by itself in the locales C and POSIX, from 3.15 on in all; in another one it
    reads Amharic that was typed as Latin-1, and cannot name the files.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8_MODE) != "1":
        os.environ[UTF8_MODE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False)),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or stream.write_through,
            ),
        )


class _Outlet(io.FileIO):
    """Drops what is written after the other end was closed: ``| head``, a terminal that is gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(data).nbytes

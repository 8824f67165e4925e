"""Pointers: files of one line that name a folder beside them, such as a run's `checkpoint_best`."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from dimts.storage.files import read_bounded, write_text
from dimts.storage.paths import AnyPath

MAX_BYTES = 1000
_TARGET = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def read_pointer(file: AnyPath) -> str:
    """The name in a pointer, relative to the pointer's folder; empty if there is no such file.

    A name that leads out of the folder counts as none.

    Raises:
        StorageError: the storage cannot be reached.
    """
    name = ""
    with suppress(OSError, ValueError):
        if file.parent != file:  # as a bucket's is
            name = read_bounded(file, MAX_BYTES).decode().strip()
    return name if _TARGET.fullmatch(name) else ""


def write_pointer(file: Path, name: str) -> None:
    """Point a file at a folder beside it, in one step that cannot be seen half done.

    Raises:
        OSError: it cannot be written.
    """
    if read_pointer(file) != name:
        write_text(file, f"{name}\n")

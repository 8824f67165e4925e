"""Pointers: files of one line that name a folder beside them, as ``checkpoint_best`` of a run does.

Older versions wrote symbolic links, and ``NAME.link`` in object storage; those are still read.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from dimts.core.untrusted import open_regular
from dimts.storage.paths import AnyPath, StoragePath

MAX_BYTES = 1000
OLD_SUFFIX = ".link"
_TARGET = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def read_pointer(file: AnyPath) -> str:
    """The name in a pointer, relative to the pointer's folder; empty if there is no such file.

    A name that leads out of the folder counts as none.

    Raises:
        StorageError: the storage cannot be reached.
    """
    name = (_read_stored(file) if isinstance(file, StoragePath) else _read_local(file)).strip()
    return name if len(name) <= MAX_BYTES and _TARGET.fullmatch(name) else ""


def _read_local(file: Path) -> str:
    try:
        if file.is_symlink():
            return os.readlink(file)
        with open_regular(file) as descriptor:
            return os.read(descriptor, MAX_BYTES + 1).decode(errors="replace")
    except OSError:
        return ""


def _read_stored(file: StoragePath) -> str:
    if file.parent == file:  # a bucket
        return ""
    for path in (file, file.parent / f"{file.name}{OLD_SUFFIX}"):
        with suppress(FileNotFoundError, ValueError):
            return path.read_bytes(most=MAX_BYTES).decode()
    return ""


def write_pointer(file: Path, name: str) -> None:
    """Point a file at a folder beside it, in one step that cannot be seen half done.

    Raises:
        OSError: it cannot be written.
    """
    if not file.is_symlink() and read_pointer(file) == name:
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(f"{name}\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)

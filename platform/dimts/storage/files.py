"""Files on this machine or in object storage: read, written, copied, removed."""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pa_fs

from dimts.core.untrusted import open_regular, read_bytes
from dimts.storage.paths import AnyPath, StoragePath, transfer


def read_bounded(file: AnyPath, most: int) -> bytes:
    """A whole regular file; a `ValueError` if it has more than `most` bytes."""
    if isinstance(file, StoragePath):
        return file.read_bytes(most=most)
    with open_regular(file) as descriptor:
        return read_bytes(descriptor, most)


def file_size(file: AnyPath) -> int:
    """Bytes of a file; 0 if there is none."""
    if isinstance(file, StoragePath):
        entry = file.entry()
        return entry.size if entry else 0
    return file.stat().st_size if file.exists() else 0


def open_at(file: AnyPath, position: int) -> BinaryIO:
    """A file to be read from a byte position on; a `FileNotFoundError` if there is none."""
    if isinstance(file, StoragePath):
        return io.BytesIO(file.read_bytes(position))
    stream = file.open("rb")
    stream.seek(position)
    return stream


def arrow_place(place: AnyPath) -> tuple[str, pa_fs.FileSystem | None]:
    """A place as Ray names it: path, and the file system that it is in if that is no folder."""
    if isinstance(place, StoragePath):
        return place.path, place.filesystem
    return str(place), None


def write_text(path: AnyPath, text: str) -> None:
    """Replace a file so that a reader sees the old one or the new one, never a part."""
    if isinstance(path, StoragePath):
        path.write_bytes(text.encode())
    else:
        write_atomic(path, text)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file; it is never seen half written."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes its name, safe on disk, when the block ends without an error."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def append_line(file: Path, line: str) -> None:
    """Add a line, which is on the disk when this returns; one before it that lacks its end gets
    it."""
    with file.open("a+b") as out:
        size = out.seek(0, os.SEEK_END)
        ended = not size or os.pread(out.fileno(), 1, size - 1) == b"\n"
        out.write(f"{'' if ended else chr(10)}{line}\n".encode())
        out.flush()
        os.fsync(out.fileno())


def copy_to(file: Path, target: AnyPath) -> None:
    """Copy a file, unless the target is itself; the copy is seen whole or not at all."""
    if isinstance(target, StoragePath):
        target.upload(file)
    elif target != file:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, atomic_file(target) as draft:
            shutil.copyfileobj(source, draft)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file under another name, too, in place of what is there; on another disk a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        copy_to(source, target)


def local_copy(source: AnyPath, file: Path) -> Path:
    """Make `file` what a file in object storage is, and missing if it is; a local one is itself."""
    if not isinstance(source, StoragePath):
        return source
    try:
        source.download(file)
    except FileNotFoundError:
        file.unlink(missing_ok=True)
    return file


def remove_files(folder: AnyPath, prefix: str = "") -> None:
    """Remove a folder, or what in it begins with `prefix`; nothing if it is not there."""
    if isinstance(folder, StoragePath):
        names = [entry.name for entry in folder.entries()]
        transfer([(folder / name).unlink for name in names if name.startswith(prefix)])
        return
    for path in folder.glob(f"{prefix}*") if prefix else [folder]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""Where recordings are opened: in a folder, or fetched from object storage a chunk at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dimts.audio.parquet_recordings import RowGroup, as_file, container, split_member
from dimts.core.posix import fcntl
from dimts.core.untrusted import open_regular
from dimts.storage.paths import AnyPath, Entry, StoragePath, cache_folder, reaching, transfer


class FileStamp(NamedTuple):
    """What tells without reading it that a file has not changed.

    The change time is among it because a copy can restore an older modification time. Object
    storage has none, and its times are those of the upload.
    """

    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def of_entry(cls, entry: Entry) -> FileStamp:
        return cls(entry.size, entry.mtime_ns, 0)


class RemoteCorpus:
    """A corpus in object storage; which files it has is asked once, and not told to workers."""

    def __init__(self, remote: StoragePath) -> None:
        self.remote = remote

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteCorpus, (self.remote,))

    @cached_property
    def stamps(self) -> dict[str, FileStamp]:
        """Of every file, by its name relative to the corpus."""
        return {entry.name: FileStamp.of_entry(entry) for entry in self.remote.entries()}


Root = Path | RemoteCorpus


Open = Callable[[str], AbstractContextManager[tuple[int, FileStamp]]]
"""Opens a recording: a descriptor at its start, and the stamp, older than what is read.

Raises `OSError` if it is missing, no regular file, or cannot be opened."""


def root_of(place: AnyPath) -> Root:
    """The corpus at a place."""
    return RemoteCorpus(place) if isinstance(place, StoragePath) else place


def stamp_of(root: Root, audio: str) -> FileStamp:
    """Of a recording, as far as is known without opening it.

    Raises:
        OSError: there is none.
    """
    audio = container(audio)
    if isinstance(root, Path):
        return FileStamp.of((root / audio).stat())
    if audio not in root.stamps:
        raise FileNotFoundError(2, os.strerror(2))
    return root.stamps[audio]


@contextmanager
def at_hand(root: Root, audios: Sequence[str], most_bytes: float) -> Iterator[Open]:
    """Inside, recordings can be opened; several are fetched at a time, none that is larger: its
    stamp says so, and nothing can be read.

    Raises:
        StorageError: object storage cannot be reached.
    """
    if isinstance(root, Path):
        yield lambda a: _member_opened(root, *m) if (m := split_member(a)) else opened(root, a)
        return
    with _folder_for_now() as folder:
        # By number: object storage has names that no file may have.
        whole = [audio for audio in audios if not split_member(audio)]
        files = {audio: Path(folder, str(n)) for n, audio in enumerate(whole)}
        stamps: dict[str, FileStamp] = {}

        def fetch(audio: str) -> None:
            if entry := (root.remote / audio).entry():
                files[audio].touch()
                with suppress(FileNotFoundError):  # removed a moment ago
                    if entry.size <= most_bytes:
                        (root.remote / audio).download(files[audio])
                    stamps[audio] = FileStamp.of_entry(entry)

        @contextmanager
        def fetched(audio: str) -> Iterator[tuple[int, FileStamp]]:
            if audio not in stamps:
                raise FileNotFoundError(2, os.strerror(2))
            with open_regular(files[audio]) as descriptor:
                yield descriptor, stamps[audio]

        transfer([partial(fetch, audio) for audio in whole])
        yield lambda a: _member_opened(root, *m) if (m := split_member(a)) else fetched(a)


@contextmanager
def opened(root: Path, audio: str) -> Iterator[tuple[int, FileStamp]]:
    """A recording that is a file in a folder, see `Open`."""
    with open_regular(root / audio) as descriptor:
        yield descriptor, FileStamp.of(os.fstat(descriptor))


_group = RowGroup()
"""Of this process: rows are read in their order."""


@contextmanager
def parquet_file(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a corpus; of one in object storage, only what is read is fetched.

    Raises:
        OSError: it is missing, no regular file, or cannot be read.
        StorageError: object storage cannot be reached.
    """
    if isinstance(root, Path):
        with (
            open_regular(root / name) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            yield pq.ParquetFile(file)
        return
    remote = root.remote / name
    with reaching(remote), remote.filesystem.open_input_file(remote.path) as file:
        yield pq.ParquetFile(file)


@contextmanager
def _member_opened(root: Root, name: str, row: int) -> Iterator[tuple[int, FileStamp]]:
    """A recording in a Parquet file; its stamp is that of the file."""
    stamp = stamp_of(root, name)
    with ExitStack() as stack:
        data = _group.read(
            (str(getattr(root, "remote", root)), name, stamp),
            lambda: stack.enter_context(parquet_file(root, name)),
            row,
        )
    with as_file(data) as descriptor:
        yield descriptor, stamp


@contextmanager
def _folder_for_now() -> Iterator[str]:
    """A folder that goes afterwards; of processes that were killed, what they left goes now."""
    beside = cache_folder("recordings")
    beside.mkdir(parents=True, exist_ok=True)
    with (beside / "lock").open("a+") as in_use:  # a lock dies with its process, however that ends
        with suppress(BlockingIOError):
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in beside.glob("*/"):
                shutil.rmtree(left, ignore_errors=True)
        fcntl.flock(in_use, fcntl.LOCK_SH)
        with tempfile.TemporaryDirectory(dir=beside) as folder:
            yield folder

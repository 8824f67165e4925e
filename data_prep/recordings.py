"""Where recordings are opened: in a folder, or fetched from object storage a chunk at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dimts.audio.parquet_recordings import RowGroup, as_file, split_member
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


Open = Callable[[str], AbstractContextManager[tuple[int, FileStamp]]]
"""Opens a recording: a descriptor at its start, and the stamp, older than what is read.

Raises `OSError` if it is missing, no regular file, or cannot be opened."""


class Listing(NamedTuple):
    """Names in a folder, sorted."""

    files: tuple[str, ...]  # and whatever is no folder: a pipe, a link, to folders too
    folders: tuple[str, ...]  # in which tables are looked for


class LocalCorpus(NamedTuple):
    """A corpus in a folder."""

    place: Path

    def real(self, name: str) -> Path | None:
        """The path of a name, links followed; None in object storage, which has no links."""
        return Path(os.path.realpath(self.place / name))

    def listing(self, folder: str) -> Listing:
        """Names in a folder of the corpus; nothing if there is no such folder.

        Args:
            folder: relative to the corpus, with slashes; "" is the corpus itself. An absolute one
                is that of `corpus.audio_folder`.

        Raises:
            PermissionError: it cannot be listed.
        """
        files: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(self.place / folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    (folders if is_folder else files).append(entry.name)
        except PermissionError:
            raise
        except (OSError, ValueError):
            return Listing((), ())
        return Listing(tuple(sorted(files)), tuple(sorted(folders)))

    def stamp(self, file: str) -> FileStamp:
        """What is known of a file without opening it; an `OSError` if there is none."""
        return FileStamp.of((self.place / file).stat())

    @contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A Parquet file; of one in object storage, only what is read is fetched.

        Raises:
            OSError: it is missing, no regular file, or cannot be read.
            StorageError: object storage cannot be reached.
        """
        with (
            open_regular(self.place / name) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            yield pq.ParquetFile(file)

    @contextmanager
    def files(self, names: Sequence[str], most_bytes: float) -> Iterator[Open]:
        """`at_hand` of recordings that are files."""
        yield partial(opened, self.place)


class RemoteCorpus:
    """A corpus in object storage, asked like a `LocalCorpus`; which files it has is asked once, and
    not told to workers."""

    def __init__(self, place: StoragePath) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteCorpus, (self.place,))

    @cached_property
    def _stamps(self) -> dict[str, FileStamp]:
        return {entry.name: FileStamp.of_entry(entry) for entry in self.place.entries()}

    @cached_property
    def _listings(self) -> dict[str, Listing]:
        files, folders = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for name in self._stamps:
            folder, _, file = name.rpartition("/")
            files[folder].add(file)
            while folder:
                above, _, below = folder.rpartition("/")
                folders[above].add(below)
                folder = above
        return {
            folder: Listing(tuple(sorted(files[folder])), tuple(sorted(folders[folder])))
            for folder in {*files, *folders}
        }

    def real(self, name: str) -> Path | None:
        return None

    def listing(self, folder: str) -> Listing:
        return self._listings.get(folder, Listing((), ()))

    def stamp(self, file: str) -> FileStamp:
        if file not in self._stamps:
            raise FileNotFoundError(2, os.strerror(2))
        return self._stamps[file]

    @contextmanager
    def parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        remote = self.place / name
        with reaching(remote), remote.filesystem.open_input_file(remote.path) as file:
            yield pq.ParquetFile(file)

    @contextmanager
    def files(self, names: Sequence[str], most_bytes: float) -> Iterator[Open]:
        with _folder_for_now() as folder:
            # By number: object storage has names that no file may have.
            files = {name: Path(folder, str(n)) for n, name in enumerate(names)}
            stamps: dict[str, FileStamp] = {}

            def fetch(name: str) -> None:
                if entry := (self.place / name).entry():
                    files[name].touch()
                    with suppress(FileNotFoundError):  # removed a moment ago
                        if entry.size <= most_bytes:
                            (self.place / name).download(files[name])
                        stamps[name] = FileStamp.of_entry(entry)

            @contextmanager
            def fetched(name: str) -> Iterator[tuple[int, FileStamp]]:
                if name not in stamps:
                    raise FileNotFoundError(2, os.strerror(2))
                with open_regular(files[name]) as descriptor:
                    yield descriptor, stamps[name]

            transfer([partial(fetch, name) for name in names])
            yield fetched


Root = LocalCorpus | RemoteCorpus


def root_of(place: AnyPath) -> Root:
    """The corpus at a place."""
    return RemoteCorpus(place) if isinstance(place, StoragePath) else LocalCorpus(place)


@contextmanager
def at_hand(root: Root, audios: Sequence[str], most_bytes: float) -> Iterator[Open]:
    """Inside, recordings can be opened; several are fetched at a time, none that is larger: its
    stamp says so, and nothing can be read.

    Raises:
        StorageError: object storage cannot be reached.
    """
    with root.files([a for a in audios if not split_member(a)], most_bytes) as open_file:
        yield lambda a: _member_opened(root, *m) if (m := split_member(a)) else open_file(a)


@contextmanager
def opened(root: Path, audio: str) -> Iterator[tuple[int, FileStamp]]:
    """A recording that is a file in a folder, see `Open`."""
    with open_regular(root / audio) as descriptor:
        yield descriptor, FileStamp.of(os.fstat(descriptor))


_group = RowGroup()
"""Of this process: rows are read in their order."""


@contextmanager
def _member_opened(root: Root, name: str, row: int) -> Iterator[tuple[int, FileStamp]]:
    """A recording in a Parquet file; its stamp is that of the file."""
    stamp = root.stamp(name)
    with ExitStack() as stack:
        key = (root.place, name, stamp)
        data = _group.read(key, lambda: stack.enter_context(root.parquet(name)), row)
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

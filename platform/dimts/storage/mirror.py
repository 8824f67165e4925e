"""A folder of this machine and its copy in object storage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dimts.storage.paths import StorageError, StoragePath, transfer
from dimts.storage.pointer import read_pointer

MAX_TRIES = 20
Stamp = tuple[int, int]
"""Size and time of writing: what tells that a file has changed."""


class Mirror:
    """Copies one way or the other what differs. Hidden files stay where they are.

    Args:
        folder: here; made when missing.
        remote: there.
        is_shared: whether a file of this name, relative to the folder, has a copy.
        manifest: name of the file that makes the folder it is in complete; it is sent after others.
        pointers: names at the top that are sent after all that they may point to. Where the first
            of them was there and is gone, the folder is no longer whole.
    """

    def __init__(
        self,
        folder: Path,
        remote: StoragePath,
        is_shared: Callable[[str], bool] = lambda name: True,
        manifest: str = "",
        pointers: Sequence[str] = (),
    ) -> None:
        self.folder, self.remote, self._is_shared = folder, remote, is_shared
        self._manifest, self._pointers = manifest, tuple(pointers)
        self._known: dict[str, Stamp | None] = {}
        self._pointed: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def pull(self) -> None:
        """Make the folder what the copy is: what else it held is removed.

        Raises:
            StorageError: the storage cannot be reached, or changes meanwhile.
        """
        names = self._listed()
        for path in self.folder.iterdir():
            if self._is_shared(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        try:
            transfer([partial((self.remote / n).download, self.folder / n) for n in names])
        except FileNotFoundError as error:
            raise StorageError(f"{self.remote}: changes while it is copied; try again") from error
        here = self._scan()
        self._known = {name: here.get(name) for name in names}

    def adopt(self) -> None:
        """Take the folder for newer than the copy."""
        self._known = dict.fromkeys(self._listed())

    def push(self) -> None:
        """Make the copy what the folder is: files, then manifests, then pointers, then removals.

        Raises:
            StorageError: the storage cannot be reached, the folder cannot be read or is not whole,
                or it changes too often meanwhile.
        """
        for _ in range(MAX_TRIES):
            # Read before the folder is, so that what they point to is seen there.
            pointers = {name: read_pointer(self.folder / name) for name in self._pointers}
            here = self._scan()
            if any(name in self._known and name not in here for name in self._pointers[:1]):
                raise StorageError(
                    f"{self.folder}: is being removed, so nothing is removed from {self.remote}"
                )
            changed = [n for n, stamp in here.items() if self._known.get(n) != stamp]
            manifests = {name for name in changed if name.split("/")[-1] == self._manifest}
            try:
                for group in (set(changed) - manifests - pointers.keys(), manifests):
                    transfer([partial(self._send, name, here[name]) for name in sorted(group)])
            except FileNotFoundError:  # removed after it was seen: what stands there now?
                continue
            for name, target in pointers.items():
                if target and self._pointed.get(name) != target:
                    (self.remote / name).write_bytes(f"{target}\n".encode())
                    self._pointed[name], self._known[name] = target, None
            left = [n for n in self._known if n not in here and not pointers.get(n)]
            transfer([partial(self._forget, name) for name in left])
            return
        raise StorageError(f"{self.folder}: changes faster than it is copied to {self.remote}")

    def _listed(self) -> list[str]:
        return [entry.name for entry in self.remote.entries() if self._is_copied(entry.name)]

    def _is_copied(self, name: str) -> bool:
        return self._is_shared(name) and not any(part.startswith(".") for part in name.split("/"))

    def _scan(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for folder, _, files in os.walk(self.folder, onerror=self._cannot_be_listed):
            for path in (Path(folder, file) for file in files):
                name = path.relative_to(self.folder).as_posix()
                try:
                    if self._is_copied(name) and path.is_file():
                        status = path.stat()
                        found[name] = status.st_size, status.st_mtime_ns
                except FileNotFoundError:  # removed a moment ago
                    continue
        return found

    def _cannot_be_listed(self, error: OSError) -> None:
        """A folder inside may be removed at any time."""
        if not isinstance(error, FileNotFoundError) or Path(error.filename) == self.folder:
            raise StorageError(f"{error.filename}: {error.strerror}; {self.remote} stays as it is")

    def _send(self, name: str, stamp: Stamp) -> None:
        (self.remote / name).upload(self.folder / name)
        self._known[name] = stamp

    def _forget(self, name: str) -> None:
        (self.remote / name).unlink()
        self._known.pop(name, None)
        self._pointed.pop(name, None)

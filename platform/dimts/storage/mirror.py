"""A folder of this machine and its copy in object storage.

Object storage has no links: one named ``checkpoint_best`` is a file ``checkpoint_best.link`` there,
which holds where it points.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dimts.storage.paths import StorageError, StoragePath, transfer

LINK = ".link"
MOST_TRIES = 20


class Stamp(NamedTuple):
    """What tells that a file has changed; of a link only `target` counts."""

    size: int
    mtime_ns: int
    target: str = ""


class Mirror:
    """Copies one way or the other what differs. Hidden files stay where they are.

    Args:
        folder: here; made when missing.
        remote: there.
        ours: names at the top that are of this machine alone.
        lasting: a name that stays once it is there; without it the folder is no longer whole.
    """

    def __init__(
        self, folder: Path, remote: StoragePath, ours: Collection[str] = (), lasting: str = ""
    ) -> None:
        self.folder, self.remote, self._lasting = folder, remote, lasting
        self._ours = frozenset(ours)
        self._known: dict[str, Stamp | None] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Make the folder what the copy is: what else it held is removed.

        Args:
            wanted: whether a file is to be had here; one that is not goes from there as well,
                with the next `push` of everything.

        Raises:
            StorageError: the storage cannot be reached, or changes meanwhile.
        """
        names = self._listed()
        for path in self.folder.iterdir():
            if path.name not in self._ours:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        try:
            transfer([partial(self._fetch, name) for name in names if wanted(name)])
        except FileNotFoundError as error:
            raise StorageError(f"{self.remote}: changes while it is copied; try again") from error
        here = self._scan()
        self._known = {name: here.get(name.removesuffix(LINK)) for name in names}

    def adopt(self) -> list[str]:
        """Take the folder for newer than the copy, which may lack some of it; what the copy has."""
        names = self._listed()
        self._known = dict.fromkeys(names)
        return names

    def push(self, only: Callable[[str], bool] = lambda name: True) -> None:
        """Make the copy what the folder is: files first, then the links, then what is to go.

        Args:
            only: the files that matter now; others are left as they are.

        Raises:
            StorageError: the storage cannot be reached, the folder cannot be read or is not whole,
                or it changes too often meanwhile.
        """
        for _ in range(MOST_TRIES):
            everything = self._scan()
            here = {name: stamp for name, stamp in everything.items() if only(name)}
            files = [n for n, s in here.items() if not s.target and self._known.get(n) != s]
            try:
                transfer([partial(self._send, name, here[name]) for name in files])
            except FileNotFoundError:  # removed after it was seen: what stands there now?
                continue
            for name, stamp in here.items():
                if stamp.target and self._known.get(name + LINK) != stamp:
                    (self.remote / (name + LINK)).write_bytes(stamp.target.encode())
                    self._known[name + LINK] = stamp
            self._check_whole(everything)
            known = list(self._known)  # another thread may push other files meanwhile
            left = [n for n in known if n.removesuffix(LINK) not in everything and only(n)]
            transfer([partial(self._forget, name) for name in left])
            return
        raise StorageError(f"{self.folder}: changes faster than it is copied to {self.remote}")

    def _listed(self) -> list[str]:
        names = [entry.name for entry in self.remote.entries()]
        return [name for name in names if self._is_shared(name)]

    def _is_shared(self, name: str) -> bool:
        parts = name.split("/")
        return parts[0] not in self._ours and not any(part.startswith(".") for part in parts)

    def _check_whole(self, here: Collection[str]) -> None:
        """What a folder that is being removed lacks must not go from its copy."""
        if self._lasting not in here and {self._lasting, self._lasting + LINK} & self._known.keys():
            raise StorageError(
                f"{self.folder}: {self._lasting} is gone, so nothing is removed from {self.remote}"
            )

    def _scan(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for folder, folders, files in os.walk(self.folder, onerror=self._cannot_be_listed):
            for path in (Path(folder, name) for name in (*files, *folders)):
                name = path.relative_to(self.folder).as_posix()
                if not self._is_shared(name):
                    continue
                try:
                    if path.is_symlink():
                        found[name] = Stamp(0, 0, os.readlink(path))
                    elif path.is_file():
                        status = path.stat()
                        found[name] = Stamp(status.st_size, status.st_mtime_ns)
                except FileNotFoundError:  # removed a moment ago
                    continue
        return dict(sorted(found.items()))

    def _cannot_be_listed(self, error: OSError) -> None:
        """A folder inside may be removed at any time."""
        if not isinstance(error, FileNotFoundError) or Path(error.filename) == self.folder:
            raise StorageError(f"{error.filename}: {error.strerror}; {self.remote} stays as it is")

    def _fetch(self, name: str) -> None:
        if not name.endswith(LINK):
            (self.remote / name).download(self.folder / name)
            return
        target = (self.remote / name).read_bytes().decode()
        link = self.folder / name.removesuffix(LINK)
        if not target or target.startswith("/") or {".", ".."} & set(target.split("/")):
            raise StorageError(f"{self.remote / name}: does not point to its own folder")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def _send(self, name: str, stamp: Stamp) -> None:
        (self.remote / name).upload(self.folder / name)
        self._known[name] = stamp

    def _forget(self, name: str) -> None:
        (self.remote / name).remove()
        self._known.pop(name, None)

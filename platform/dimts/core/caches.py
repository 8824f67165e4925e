"""Folders for what libraries compile and cache, where the user's home cannot be written.

As in a container that runs as a user id without a home, where numba cannot be imported otherwise.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

IN_CACHE = {
    "DIMTS_CACHE": "dimts",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TRITON_CACHE_DIR": "triton",
}
"""Variables by which a cache is moved -> its folder in ours."""


def choose_caches() -> None:
    """Name folders below the system's temporary one, unless the user's own cache can be written.

    The environment is changed, for this process and those it starts: to be called before numba and
    matplotlib are imported.
    """
    home = os.path.expanduser("~")
    own = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    if _can_be_written(own):
        return
    with suppress(OSError):  # no temporary folder either: whoever needs a cache says so
        folder = _folder_of_this_user()
        os.environ["XDG_CACHE_HOME"] = str(folder)
        if not os.path.isabs(home):  # an id that no home is known of
            os.environ["HOME"] = str(folder)
        for variable, name in IN_CACHE.items():
            os.environ.setdefault(variable, str(folder / name))


def _can_be_written(folder: str) -> bool:
    if not os.path.isabs(folder):
        return False
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _folder_of_this_user() -> Path:
    """The same each time, unless someone else has made it: compiled code is run from there."""
    folder = Path(tempfile.gettempdir()) / f"dimts-cache-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if is_ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    return Path(tempfile.mkdtemp(prefix="dimts-cache-"))

"""A sweep whose folder is in object storage: the driver has the folder, the storage a copy.

Trials are runs there of their own, see `launch.remote_run`.
"""

from __future__ import annotations

import time
from pathlib import Path

from dimts.core.errors import UserError
from dimts.launch.names import LOCK
from dimts.launch.run_folder import NEWEST, is_newest, note_newest
from dimts.launch.stopping import EARLY_FILE, STOP_FILE
from dimts.storage.mirror import Mirror
from dimts.storage.paths import AnyPath, StorageError, StoragePath
from dimts.training.ownership import CLAIM, Claim

TRIALS = "trials"
SCRATCH = "ray_tune"
PATIENCE_S = 120.0
NOT_COPIED = (LOCK, CLAIM, NEWEST, STOP_FILE, EARLY_FILE, TRIALS, SCRATCH)


class SweepCopy:
    """What the driver does for the copy of its sweep; nothing where all nodes see the folder.

    Args:
        folder: of the sweep, on this machine.
        place: of the sweep.
    """

    def __init__(self, folder: Path, place: AnyPath) -> None:
        self._folder = folder
        self._remote = place if isinstance(place, StoragePath) else None
        self._claim = ""

    def fetch(self) -> None:
        """Bring the folder to where the sweep stands; the copy is left as it is.

        Raises:
            StorageError: the storage cannot be reached.
        """
        if self._remote is None:
            return
        self._mirror = Mirror(self._folder, self._remote, NOT_COPIED)
        if is_newest(self._folder, self._theirs(self._remote)):
            self._mirror.adopt()  # what could not be sent before is sent when it is taken up
        else:
            self._mirror.pull()

    def acquire(self) -> None:
        """From now on the sweep is this machine's; raises like `fetch`."""
        if self._remote is None:
            return
        self._mirror.push()
        Claim(self._folder)
        self._claim = (self._folder / CLAIM).read_text(encoding="utf-8")
        note_newest(self._folder, self._claim)
        (self._remote / CLAIM).write_bytes(self._claim.encode())

    def keep(self) -> None:
        """Send what has changed.

        Raises:
            UserError: another machine has taken up the sweep, or the storage cannot be reached for
                `PATIENCE_S`.
        """
        if self._remote is None:
            return
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self._theirs(self._remote) != self._claim:
                    raise UserError(f"{self._remote}: another machine goes on with this sweep")
                self._mirror.push()
                return
            except StorageError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)

    @staticmethod
    def _theirs(remote: StoragePath) -> str:
        try:
            return (remote / CLAIM).read_text()
        except FileNotFoundError:
            return ""

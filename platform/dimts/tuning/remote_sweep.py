"""A sweep whose folder is in object storage: the driver has the folder, the storage a copy.

Trials are runs there of their own, see `launch.local_run_folder`.
"""

from __future__ import annotations

import time
from pathlib import Path

from dimts.core.errors import UserError
from dimts.launch.names import LOCK
from dimts.launch.run_folder import NEWEST, claim_copy, claim_of, is_newest
from dimts.launch.stopping import EARLY_FILE, STOP_FILE
from dimts.storage.mirror import Mirror
from dimts.storage.paths import AnyPath, StorageError, StoragePath
from dimts.training.ownership import CLAIM

TRIALS = "trials"
SCRATCH = "ray_tune"
PATIENCE_S = 120.0
NOT_COPIED = (LOCK, CLAIM, NEWEST, STOP_FILE, EARLY_FILE, TRIALS, SCRATCH)


class SweepCopy:
    """What the driver does for the copy of its sweep; nothing where all nodes see the folder.

    Raises:
        StorageError: the storage cannot be reached.
    """

    def __init__(self, folder: Path, place: AnyPath) -> None:
        self._folder = folder
        self._remote = place if isinstance(place, StoragePath) else None
        self._claim = ""
        if self._remote:
            self._mirror = Mirror(
                folder, self._remote, lambda name: name.split("/")[0] not in NOT_COPIED
            )

    def fetch(self) -> None:
        """Bring the folder to where the sweep stands; the copy is left as it is."""
        if self._remote and is_newest(self._folder, claim_of(self._remote)):
            self._mirror.adopt()  # what could not be sent before is sent when it is taken up
        elif self._remote:
            self._mirror.pull()

    def acquire(self) -> None:
        """From now on the sweep is this machine's."""
        if self._remote:
            self._mirror.push()
            self._claim = claim_copy(self._folder, self._remote)

    def keep(self) -> None:
        """Send what has changed, within `PATIENCE_S`.

        Raises:
            UserError: another machine has taken up the sweep.
        """
        until = time.monotonic() + PATIENCE_S
        while self._remote:
            try:
                if claim_of(self._remote) != self._claim:
                    raise UserError(f"{self._remote}: another machine goes on with this sweep")
                self._mirror.push()
                return
            except StorageError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)

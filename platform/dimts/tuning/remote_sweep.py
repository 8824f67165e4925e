"""A sweep whose folder is in object storage: the driver has the folder, the storage a copy.

Trials are runs there of their own, see `launch.remote_run`.
"""

from __future__ import annotations

from pathlib import Path

from dimts.errors import UserError
from dimts.launch.names import LOCK
from dimts.launch.stopping import EARLY_FILE, STOP_FILE
from dimts.storage.mirror import Mirror
from dimts.storage.place import Folder, Remote
from dimts.training.claim import CLAIM, Claim

TRIALS = "trials"
SCRATCH = "ray_tune"
NOT_COPIED = (LOCK, CLAIM, STOP_FILE, EARLY_FILE, TRIALS, SCRATCH)


class SweepCopy:
    """What the driver does for the copy of its sweep; nothing where all nodes see the folder.

    Args:
        folder: of the sweep, on this machine.
        place: of the sweep.
    """

    def __init__(self, folder: Path, place: Folder) -> None:
        self._folder = folder
        self._remote = place if isinstance(place, Remote) else None
        self._claim = b""

    def begin(self) -> None:
        """Bring the folder to where the sweep stands, and take it up.

        Raises:
            RemoteError: the storage cannot be reached.
        """
        if self._remote is None:
            return
        self._mirror = Mirror(self._folder, self._remote, NOT_COPIED)
        ours, theirs = self._folder / CLAIM, self._theirs(self._remote)
        if theirs and ours.exists() and ours.read_bytes() == theirs:
            self._mirror.adopt()  # what could not be sent before is sent now
        else:
            self._mirror.pull()
        Claim(self._folder)
        self._claim = ours.read_bytes()
        (self._remote / CLAIM).write_bytes(self._claim)

    def keep(self) -> None:
        """Send what has changed.

        Raises:
            UserError: another machine has taken up the sweep, or the storage cannot be reached.
        """
        if self._remote is None:
            return
        if self._theirs(self._remote) != self._claim:
            raise UserError(f"{self._remote}: another machine goes on with this sweep")
        self._mirror.push()

    @staticmethod
    def _theirs(remote: Remote) -> bytes:
        try:
            return (remote / CLAIM).read_bytes()
        except FileNotFoundError:
            return b""

"""A run whose folder is in object storage: rank 0's machine has a folder, the storage a copy.

The copy is brought up to date with each checkpoint, at the end, and every few seconds for the event
log. Claims and wishes to stop are looked for once a second: a run belongs to the process whose
``claim`` the copy has.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed as dist

from dimts.bundles.bundle import MANIFEST
from dimts.core.errors import UserError
from dimts.launch.names import CONFIG_FILE, ENDING, LOCK, START
from dimts.launch.run_folder import (
    NEWEST,
    claim_copy,
    claim_of,
    is_last_start,
    is_newest,
    note_newest,
)
from dimts.launch.settings import Launch
from dimts.launch.stopping import (
    EARLY_FILE,
    STOP_FILE,
    clear_stop,
    request_stop,
    stop_requested,
    stopped_early,
)
from dimts.storage.files import file_size, local_copy
from dimts.storage.mirror import Mirror
from dimts.storage.paths import StorageError, StoragePath, folder_here
from dimts.tracking.event_log import EVENTS
from dimts.training.checkpoint import BEST, LATEST
from dimts.training.memory import PARTS
from dimts.training.ownership import CLAIM, RunTakenOver

NOT_COPIED = (CONFIG_FILE, LOCK, CLAIM, NEWEST, START, STOP_FILE, EARLY_FILE)
"""Of one machine, of the driver, or sent in another way."""
OF_OTHERS = (ENDING, PARTS)
"""Also written by workers that are not rank 0."""
POLL_S = 1.0
SEND_S = 5.0
LOG_BYTES_PER_S = 2**20
"""The event log is sent whole each time: a long one less often."""
END_S = 600.0
"""How long a run that has ended tries to bring its last checkpoint there, in seconds."""

log = logging.getLogger(__name__)


def _is_shared(name: str) -> bool:
    return name.split("/")[0] not in NOT_COPIED


class RemoteRun:
    """What one worker does for the copy of its run; only rank 0 sends more than `OF_OTHERS`."""

    def __init__(self, folder: Path, remote: StoragePath, rank: int = 0) -> None:
        self._folder, self._remote, self._rank = folder, remote, rank
        self._mirror = Mirror(folder, remote, _is_shared, MANIFEST, (LATEST, BEST))
        self._claim = ""
        self._is_ours = True
        self._due = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> None:
        """Bring the folder to where the run stands.

        If rank 0 has the folder that was the last to write there, it is as new, or newer: then what
        could not be sent before is sent now. Rank 0 takes the copy up.

        Raises:
            StorageError: the storage cannot be reached, or must not be written to.
        """
        theirs = claim_of(self._remote)
        clear_stop(self._folder)
        if self._rank == 0 and is_newest(self._folder, theirs):
            self._mirror.adopt()
            for name in OF_OTHERS:
                local_copy(self._remote / name, self._folder / name)
            self._mirror.push()
        else:
            (self._folder / CLAIM).unlink(missing_ok=True)
            self._mirror.pull()
        if self._rank == 0:
            self._claim = claim_copy(self._folder, self._remote)

    def start(self) -> None:
        """From now on what changes is sent, and what others wish is heard."""
        self._thread.start()

    def send_soon(self) -> None:
        """Send what has changed now, while training goes on."""
        self._due = 0.0

    def hear(self) -> None:
        """Whether someone wishes the run to end, as of now."""
        if not stop_requested(self._folder) and stop_requested(self._remote):
            request_stop(self._folder, stopped_early(self._remote))

    def end(self, patience_s: float = END_S) -> None:
        """Send what is left, or leave out what cannot be sent at once if there is no patience.

        Raises:
            UserError: it could not be sent within that time; says where it is.
        """
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        until = time.monotonic() + patience_s
        while self._is_ours:
            try:
                self._send()
                return
            except (StorageError, OSError) as error:
                if not patience_s:
                    return
                if time.monotonic() >= until:
                    raise UserError(
                        f"{error}; what was trained is in {self._folder} and nowhere else: give "
                        "the same command again on this machine to send it"
                    ) from error
                time.sleep(POLL_S)

    def _work(self) -> None:
        warned = False
        while self._is_ours and not self._done.wait(POLL_S):
            try:
                self._check_claim()
                self.hear()
                if time.monotonic() >= self._due:
                    pause = max(SEND_S, file_size(self._folder / EVENTS) / LOG_BYTES_PER_S)
                    self._due = time.monotonic() + pause
                    self._send()
                warned = False
            except (StorageError, OSError) as error:  # a full disk, too, may have room again
                self.send_soon()
                if not warned:
                    log.warning("%s; trying again", error)
                warned = True

    def _send(self) -> None:
        if self._rank == 0:
            self._check_claim()
            if self._is_ours:
                self._mirror.push()
            return
        for name in OF_OTHERS:
            if (self._folder / name).exists():
                (self._remote / name).upload(self._folder / name)

    def _check_claim(self) -> None:
        """Tell the storage of our claim, and the loop of another's."""
        ours, theirs = claim_of(self._folder), claim_of(self._remote)
        if theirs not in (self._claim, ours):
            self._is_ours = False
            (self._folder / CLAIM).write_text(theirs, encoding="utf-8")
        elif ours and ours != theirs:
            note_newest(self._folder, self._claim, ours)
            (self._remote / CLAIM).write_bytes(ours.encode())
            self._claim = ours


@contextmanager
def local_run_folder(
    launch: Launch, rank: int = 0, local_rank: int = 0, stays: bool = True
) -> Iterator[tuple[Launch, RemoteRun | None]]:
    """Inside, the run has a folder on this machine; every worker of a group calls this.

    Args:
        launch: as the driver handed it out.
        rank, local_rank: of this worker; among those on its machine, which share the folder.
        stays: whether a folder that has a copy stays when the run has ended.

    Yields:
        The launch with that folder, and its copy; None where there is none, or it is rank 0's.

    Raises:
        RunTakenOver: the run was started again elsewhere.
        UserError: the storage cannot be reached.
    """
    if launch.remote is None:
        yield launch, None
        return
    folder = folder_here(launch.remote, "runs", "worker")
    settings = launch.settings.model_copy(update={"run_dir": folder})
    try:
        if not is_last_start(launch):  # as a group that is started again finds
            raise RunTakenOver(f"{launch.remote}: was started again elsewhere")
        run = RemoteRun(folder, launch.remote, rank)
        # Rank 0 first: it may have more than the storage has, and sends it.
        for turn in (rank == 0, rank != 0 and local_rank == 0):
            if turn:
                run.begin()
                # As events that wait here are sent by them.
                (folder / CONFIG_FILE).write_text(settings.config_yaml, encoding="utf-8")
            if dist.is_initialized():
                dist.barrier()
    except StorageError as error:
        if not (folder / NEWEST).exists():
            raise
        raise StorageError(
            f"{error}; {folder} on {platform.node()} may have what could not be sent: the same "
            "command on that machine sends it"
        ) from error
    if rank == 0:
        run.start()
    try:
        yield launch.model_copy(update={"settings": settings}), run if rank == 0 else None
    except RunTakenOver:
        raise
    except BaseException as error:
        # Where the storage is away, what was trained may be here alone.
        run.end(END_S if rank == 0 and isinstance(error, StorageError) else 0)
        raise
    run.end(END_S if rank == 0 else 0)
    if local_rank == 0 and not stays:
        shutil.rmtree(folder, ignore_errors=True)

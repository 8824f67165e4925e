"""A run whose folder is in object storage: rank 0's machine has a folder, the storage a copy.

The copy is brought up to date with each checkpoint, at the end, and every few seconds for the event
log. Claims and wishes to stop are looked for once a second: a run belongs to the process whose
``claim`` the copy has. The driver's side is `relay`.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from torch import distributed as dist

from dimts.bundles.bundle import MANIFEST
from dimts.core.errors import UserError
from dimts.launch.attempts import ATTEMPTS
from dimts.launch.names import (
    ANSWERED,
    CONFIG_FILE,
    ENDING,
    FAILURE,
    LOCK,
    START,
    TOLD_OF_CHECKPOINTS,
)
from dimts.launch.relay import is_last_start
from dimts.launch.run_folder import NEWEST, claim_copy, claim_of, is_newest, note_newest
from dimts.launch.settings import Launch
from dimts.launch.stopping import (
    EARLY_FILE,
    STOP_FILE,
    clear_stop,
    request_stop,
    stop_early,
    stop_requested,
)
from dimts.storage.mirror import Mirror
from dimts.storage.paths import StorageError, StoragePath, cache_folder
from dimts.storage.pointer import read_pointer
from dimts.tracking.event_log import EVENTS
from dimts.training.checkpoint import BEST, LATEST, step_of
from dimts.training.memory import PARTS
from dimts.training.ownership import CLAIM, RunTakenOver

NOT_COPIED = (
    ANSWERED, CONFIG_FILE, LOCK, CLAIM, NEWEST, START, STOP_FILE, EARLY_FILE, TOLD_OF_CHECKPOINTS,
)  # fmt: skip
"""Of one machine, of the driver, or sent in another way."""
POLL_S = 1.0
SEND_S = 5.0
LOG_BYTES_PER_S = 2**20
"""The event log is sent whole each time: a long one less often."""
END_S = 600.0
"""How long a run that has ended tries to bring its last checkpoint there, in seconds."""

log = logging.getLogger(__name__)


def _is_shared(name: str) -> bool:
    return name.split("/")[0] not in NOT_COPIED


def worker_folder(remote: StoragePath) -> Path:
    """The run's folder on a machine that trains."""
    return cache_folder("runs", remote) / "worker" / remote.name


class RemoteRun:
    """What one worker does for the copy of its run.

    Args:
        folder: of the run, on this machine.
        remote: of the run, in object storage.
        rank: of the worker; only rank 0 writes there, but for why it failed.
    """

    def __init__(self, folder: Path, remote: StoragePath, rank: int = 0) -> None:
        self._folder, self._remote, self._rank = folder, remote, rank
        self._mirror = Mirror(folder, remote, _is_shared, MANIFEST, (LATEST, BEST))
        self._claim = ""
        self._is_ours = True
        self._done, self._wanted = threading.Event(), threading.Event()
        self._claiming = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._told = False

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
            there = self._mirror.adopt()
            for name in (ATTEMPTS, ENDING, FAILURE, PARTS):  # of the driver and of other workers
                (self._folder / name).unlink(missing_ok=True)
                if name in there:
                    (self._remote / name).download(self._folder / name)
            self._mirror.push()
        else:
            (self._folder / CLAIM).unlink(missing_ok=True)
            self._mirror.pull(self._needed())
        if self._rank == 0:
            self._claim = claim_copy(self._folder, self._remote)

    def _needed(self) -> Callable[[str], bool]:
        """Of the checkpoints the newest two (one may be damaged) and the best."""
        names = {PurePosixPath(entry.name) for entry in self._remote.entries()}
        folders = {name.parts[0] for name in names if step_of(name.parts[0]) is not None}
        whole = [name for name in folders if PurePosixPath(name, MANIFEST) in names]
        kept = set(sorted(whole, key=lambda name: step_of(name) or 0)[-2:])
        kept |= {read_pointer(self._remote / pointer) for pointer in (BEST, LATEST)}
        return lambda name: name.split("/")[0] not in folders - kept

    def start(self) -> None:
        """From now on what changes is sent, and what others wish is heard."""
        for work in (self._listen, self._send):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def saved(self, checkpoint: Path | None) -> Path | None:
        """Send a new checkpoint, if there is one, while training goes on; where all machines find
        it as a folder, which is nowhere."""
        if checkpoint:
            self.send_soon()
        return None

    def send_soon(self) -> None:
        """Send what has changed now, while training goes on."""
        self._wanted.set()

    def hear(self) -> None:
        """Whether someone wishes the run to end, as of now."""
        if not stop_requested(self._folder) and (self._remote / STOP_FILE).exists():
            early = (self._remote / EARLY_FILE).exists()
            (stop_early if early else request_stop)(self._folder)

    def end(self, patience_s: float = END_S) -> None:
        """Send what is left.

        Args:
            patience_s: how long to try; with none, what cannot be sent at once is left out.

        Raises:
            UserError: it could not be sent within that time; says where it is.
        """
        self._done.set()
        self._wanted.set()
        for thread in self._threads:
            thread.join()
        until = time.monotonic() + patience_s
        while self._is_ours:
            try:
                self._send_now() if self._rank == 0 else self._send_why()
                return
            except (StorageError, OSError) as error:
                if not patience_s:
                    return
                if time.monotonic() >= until:
                    raise UserError(
                        f"{error}; what was trained is in {self._folder} and nowhere else: give "
                        "the same command again on this machine to send it"
                    ) from error
                self._say(error)
                time.sleep(POLL_S)

    def _send_why(self) -> None:
        """Why a worker failed that is not rank 0."""
        for name in (ENDING, FAILURE, PARTS):
            if (self._folder / name).exists():
                (self._remote / name).upload(self._folder / name)

    def _listen(self) -> None:
        while self._is_ours and not self._done.wait(POLL_S):
            try:
                self._check_claim()
                self.hear()
            except (StorageError, OSError) as error:  # a full disk, too, may have room again
                self._say(error)

    def _check_claim(self) -> None:
        """Tell the storage of our claim, and the loop of another's."""
        with self._claiming:
            ours, theirs = claim_of(self._folder), claim_of(self._remote)
            if theirs not in (self._claim, ours):
                self._is_ours = False
                (self._folder / CLAIM).write_text(theirs, encoding="utf-8")
            elif ours and ours != theirs:
                note_newest(self._folder, self._claim, ours)
                (self._remote / CLAIM).write_bytes(ours.encode())
                self._claim = ours

    def _send(self) -> None:
        pause = 0.0
        while self._is_ours:
            self._wanted.wait(pause)
            self._wanted.clear()
            if self._done.is_set():
                return
            try:
                self._send_now()
                self._told = False
                pause = max(SEND_S, _size(self._folder / EVENTS) / LOG_BYTES_PER_S)
            except (StorageError, OSError) as error:
                self._say(error)
                pause = POLL_S

    def _send_now(self) -> None:
        self._check_claim()
        if self._is_ours:
            self._mirror.push()

    def _say(self, error: Exception) -> None:
        """Once each time that it begins."""
        if not self._told:
            self._told = True
            log.warning("%s; trying again", error)


class NoCopy:
    """What a run does for its copy that has none: its folder is one that all see."""

    def saved(self, checkpoint: Path | None) -> Path | None:
        return checkpoint

    def send_soon(self) -> None: ...

    def hear(self) -> None: ...


@contextmanager
def local_run_folder(
    launch: Launch, rank: int = 0, local_rank: int = 0, stays: bool = True
) -> Iterator[tuple[Launch, RemoteRun | NoCopy]]:
    """Inside, the run has a folder on this machine, whatever holds it.

    Every worker of a group calls this.

    Args:
        launch: as the driver handed it out.
        rank: of this worker.
        local_rank: among those on its machine, which share the folder.
        stays: whether a folder that has a copy stays when the run has ended.

    Yields:
        The launch with that folder, and what is to be told of each checkpoint.

    Raises:
        RunTakenOver: the run was started again elsewhere.
        UserError: the storage cannot be reached.
    """
    if launch.remote is None:
        yield launch, NoCopy()
        return
    folder = worker_folder(launch.remote)
    settings = launch.settings.model_copy(update={"run_dir": folder})
    with _naming(folder):
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
    if rank == 0:
        run.start()
    try:
        yield launch.model_copy(update={"settings": settings}), run if rank == 0 else NoCopy()
    except RunTakenOver:
        raise
    except BaseException as error:
        # Where the storage is away, what was trained may be here alone.
        run.end(END_S if rank == 0 and isinstance(error, StorageError) else 0)
        raise
    run.end(END_S if rank == 0 else 0)
    if local_rank == 0 and not stays:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Where the storage cannot be reached, say that this folder may have more than it has."""
    try:
        yield
    except StorageError as error:
        if not (folder / NEWEST).exists():
            raise
        raise StorageError(
            f"{error}; {folder} on {platform.node()} may have what could not be sent: the same "
            "command on that machine sends it"
        ) from error


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

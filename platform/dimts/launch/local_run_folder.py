"""A run whose folder is in object storage: rank 0's machine has a folder, the storage a copy.

What people and processes tell each other by files (`stopping`, `claim`, the record) goes the same
way: both sides look at the copy about once a second. A run is that process's whose ``claim`` the
copy has. The other side is `remote_driver`.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import distributed as dist

from dimts.core.errors import UserError
from dimts.launch.attempts import ATTEMPTS
from dimts.launch.console import EVENTS
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
from dimts.launch.run_folder import NEWEST, is_newest, note_newest
from dimts.launch.settings import Launch
from dimts.launch.stopping import (
    EARLY_FILE,
    STOP_FILE,
    clear_stop,
    request_stop,
    stop_early,
    stop_requested,
)
from dimts.storage.mirror import LINK, Mirror
from dimts.storage.paths import StorageError, StoragePath, cache_folder
from dimts.training.checkpoint import BEST, LATEST, step_of
from dimts.training.memory import PARTS
from dimts.training.ownership import CLAIM, RunTakenOver

NOT_COPIED = (
    ANSWERED, CONFIG_FILE, LOCK, CLAIM, NEWEST, START, STOP_FILE, EARLY_FILE, TOLD_OF_CHECKPOINTS,
)  # fmt: skip
"""Of one machine, of the driver, or sent in another way."""
POLL_S = 1.0
EVENTS_BYTES_A_SECOND = 2**20
"""The record is sent whole each time: a long one less often."""
END_S = 600.0
"""How long a run that has ended tries to bring its last checkpoint there, in seconds."""

log = logging.getLogger(__name__)


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
        self._mirror = Mirror(folder, remote, NOT_COPIED, lasting=LATEST)
        self._claim = ""
        self._is_ours = True
        self._done, self._saved = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._told = False
        self._next_events = 0.0

    def begin(self) -> None:
        """Bring the folder to where the run stands.

        If rank 0 has the folder that was the last to write there, it is as new, or newer: then what
        could not be sent before is sent now. Rank 0 takes the copy up.

        Raises:
            StorageError: the storage cannot be reached, or must not be written to.
        """
        theirs = _read(self._remote / CLAIM)
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
            self._claim = uuid.uuid4().hex
            note_newest(self._folder, self._claim)
            (self._remote / CLAIM).write_bytes(self._claim.encode())

    def _needed(self) -> Callable[[str], bool]:
        """Of the checkpoints the newest two (one may be damaged) and the best."""
        folders = {e.name.split("/")[0] for e in self._remote.entries()}
        steps = sorted((s, name) for name in folders if (s := step_of(name)) is not None)
        kept = {name for _, name in steps[-2:]}
        kept |= {_read(self._remote / (link + LINK)) for link in (BEST, LATEST)}
        dropped = {name for _, name in steps} - kept
        return lambda name: name.split("/")[0] not in dropped

    def start(self) -> None:
        """From now on what changes is sent, and what others wish is heard."""
        for work in (self._talk, self._send_checkpoints):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def saved(self) -> None:
        """There is a new checkpoint: it is sent while training goes on."""
        self._saved.set()

    def hear(self) -> None:
        """Whether someone wishes the run to end, as of now."""
        if not stop_requested(self._folder) and (self._remote / STOP_FILE).exists():
            early = (self._remote / EARLY_FILE).exists()
            (stop_early if early else request_stop)(self._folder)

    def finish(self) -> None:
        """Send what is left.

        Raises:
            UserError: it could not be sent within `END_S`; says where it is.
        """
        self._stop_threads()
        until = time.monotonic() + END_S
        while self._is_ours:
            try:
                self._claims()
                if self._is_ours:
                    self._mirror.push()
                return
            except (StorageError, OSError) as error:
                if time.monotonic() >= until:
                    raise UserError(
                        f"{error}; what was trained is in {self._folder} and nowhere else: give "
                        "the same command again on this machine to send it"
                    ) from error
                self._say(error)
                time.sleep(POLL_S)

    def give_up(self) -> None:
        """After a failure: send what can be sent at once."""
        self._stop_threads()
        with suppress(StorageError, OSError):
            if self._rank == 0:
                self._claims()
                if self._is_ours:
                    self._mirror.push()
            for name in (ENDING, FAILURE, PARTS):
                if (self._folder / name).exists():
                    (self._remote / name).upload(self._folder / name)

    def end(self, patient: bool) -> None:
        """Send what is left; rank 0 waits for the storage if it is `patient`, see `finish`."""
        if patient and self._rank == 0:
            self.finish()
        else:
            self.give_up()

    def _stop_threads(self) -> None:
        self._done.set()
        self._saved.set()
        for thread in self._threads:
            thread.join()

    def _talk(self) -> None:
        while not self._done.wait(POLL_S):
            try:
                self._claims()
                if not self._is_ours:
                    return
                self.hear()
                self._mirror.push(self._is_due)
                self._told = False
            except (StorageError, OSError) as error:  # a full disk, too, may have room again
                self._say(error)

    def _claims(self) -> None:
        """Tell the storage of our claim, and the loop of another's."""
        ours, theirs = _read_here(self._folder / CLAIM), _read(self._remote / CLAIM)
        if theirs not in (self._claim, ours):
            self._is_ours = False
            (self._folder / CLAIM).write_text(theirs, encoding="utf-8")
        elif ours and ours != theirs:
            note_newest(self._folder, self._claim, ours)
            (self._remote / CLAIM).write_bytes(ours.encode())
            self._claim = ours

    def _is_record(self, name: str) -> bool:
        """What is sent every second: the files at the top, which are small."""
        return "/" not in name.removesuffix(LINK) and not name.startswith("checkpoint_")

    def _is_due(self, name: str) -> bool:
        if name != EVENTS:
            return self._is_record(name)
        if (now := time.monotonic()) < self._next_events:
            return False
        self._next_events = now + _size(self._folder / name) / EVENTS_BYTES_A_SECOND
        return True

    def _send_checkpoints(self) -> None:
        while not self._done.is_set():
            self._saved.wait()
            self._saved.clear()
            while not self._done.is_set() and self._is_ours:
                try:
                    self._mirror.push(lambda name: not self._is_record(name))
                    break
                except (StorageError, OSError) as error:
                    self._say(error)
                    self._done.wait(POLL_S)

    def _say(self, error: Exception) -> None:
        """Once each time that it begins."""
        if not self._told:
            self._told = True
            log.warning("%s; trying again", error)


class NoCopy:
    """What a run does for its copy that has none: its folder is one that all see."""

    def saved(self) -> None: ...

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
            if dist.is_initialized():
                dist.barrier()
    if rank == 0:
        # As a record that waits here is sent by them.
        (folder / CONFIG_FILE).write_text(settings.config_yaml, encoding="utf-8")
        run.start()
    try:
        yield launch.model_copy(update={"settings": settings}), run if rank == 0 else NoCopy()
    except RunTakenOver:
        raise
    except BaseException as error:
        # Where the storage is away, what was trained may be here alone.
        run.end(patient=isinstance(error, StorageError))
        raise
    run.end(patient=True)
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


def _read(file: StoragePath) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _read_here(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

"""The driver's side of a run in object storage; that of the workers is `local_run_folder`.

Of a run whose folder all nodes see there is nothing to relay.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from dimts.core.errors import UserError
from dimts.launch import stopping
from dimts.launch.attempts import ATTEMPTS
from dimts.launch.names import CONFIG_FILE, FAILURE, START, TOLD_OF_CHECKPOINTS
from dimts.launch.run_logger import RESULT
from dimts.launch.settings import Launch
from dimts.launch.stopping import EARLY_FILE, STOP_FILE, stop_early, stop_requested
from dimts.storage.paths import StorageError, StoragePath, copy_to, local_copy
from dimts.tracking.event_log import EVENTS

POLL_S = 0.5

log = logging.getLogger(__name__)


def new_start(launch: Launch) -> Launch:
    """The launch as one that whoever started the run before can tell from its own."""
    return launch.model_copy(update={"start": uuid.uuid4().hex})


def acquire(launch: Launch) -> None:
    """From now on this start of the run is the last.

    Raises:
        StorageError: the storage cannot be reached.
    """
    if launch.remote:
        (launch.remote / START).write_bytes(launch.start.encode())


def is_last_start(launch: Launch) -> bool:
    """Whether nobody has started the run since; raises like `acquire`."""
    if launch.remote is None:
        return True
    try:
        return (launch.remote / START).read_text() == launch.start
    except FileNotFoundError:
        return not launch.start


def send_settings(launch: Launch) -> None:
    """Its settings now; and what a start of before asked for or met is forgotten."""
    acquire(launch)
    copy_to(launch.run_dir / CONFIG_FILE, launch.place / CONFIG_FILE)
    for name in (STOP_FILE, FAILURE, ATTEMPTS, RESULT, TOLD_OF_CHECKPOINTS):
        (launch.place / name).unlink(missing_ok=True)
        (launch.run_dir / name).unlink(missing_ok=True)


def fetch_result(launch: Launch) -> None:
    """How the run ended, as `recorder.read_result` reads it.

    Raises:
        UserError: it goes on elsewhere.
    """
    if not is_last_start(launch):
        raise UserError(f"{launch.place}: was started again elsewhere, and goes on there")
    local_copy(launch.place / RESULT, launch.run_dir / RESULT)


def request_stop(launch: Launch, early: bool = False) -> None:
    """Wish a run to end after its current step; `early` says that a sweep does.

    Raises:
        StorageError: the storage cannot be reached.
    """
    launch.run_dir.mkdir(parents=True, exist_ok=True)
    (stop_early if early else stopping.request_stop)(launch.run_dir)
    if is_last_start(launch):
        if early:
            (launch.place / EARLY_FILE).write_bytes(b"")
        (launch.place / STOP_FILE).write_bytes(b"")


@contextmanager
def relay_events(launch: Launch, events: str = EVENTS) -> Iterator[None]:
    """Inside, the workers hear of a wish to stop, and what they write into `events` comes into the
    folder here; afterwards why it failed, if it did, is here too."""
    if launch.remote is None:
        yield
        return
    relay = _Relay(launch, launch.remote, events)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        relay.done.set()
        thread.join()
        relay.end()


class _Relay:
    def __init__(self, launch: Launch, remote: StoragePath, events: str) -> None:
        self._launch, self._folder, self._remote = launch, launch.run_dir, remote
        self._events, self._here = remote / events, self._folder / events
        known = self._events.entry()
        self._position = known.size if known else 0
        self._asked = False
        self.done = threading.Event()

    def run(self) -> None:
        told = False
        while not self.done.wait(POLL_S):
            try:
                self._look()
                told = False
            except (StorageError, OSError) as error:
                if not told:
                    log.warning("%s; trying again", error)
                told = True

    def _look(self) -> None:
        if not self._asked and stop_requested(self._folder):
            request_stop(self._launch)
            self._asked = True
        now = self._events.entry()
        if now is None or now.size <= self._position:
            # A group on another machine goes on from less than was told already.
            self._position = min(self._position, now.size if now else 0)
            return
        data = self._events.read_bytes(self._position)
        self._position += len(data)
        with self._here.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        """The rest of the event log, and why it failed if it did."""
        self._look()
        local_copy(self._remote / FAILURE, self._folder / FAILURE)

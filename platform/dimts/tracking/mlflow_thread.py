"""The thread that sends a run's event log to MLflow while the run goes on, and sending it later."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path

from dimts.core.errors import UserError
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EVENTS
from dimts.tracking.mlflow_client import mlflow_environment, reason
from dimts.tracking.mlflow_sender import Sender

log = logging.getLogger(__name__)

MAX_PAUSE_S = 30.0
CLOSING_PAUSE_S = 0.5


class MlflowThread:
    """Sends what is in the event log of a folder, and what is appended to it; see `Sender`."""

    def __init__(self, config: TrackingConfig, run_dir: Path) -> None:
        self._config = config
        self._log = run_dir / EVENTS
        self.sender = Sender(config, run_dir)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._wake = threading.Event()
        self._closing = False
        self._environment = ExitStack()

    def start(self) -> None:
        """Begin to send; the store is not asked here."""
        self._environment.enter_context(mlflow_environment())
        self._thread.start()

    def close(self) -> None:
        """Send the rest for at most ``flush_timeout_s``, and say what is not sent then."""
        self._closing = True
        self._wake.set()
        self._thread.join(self._config.flush_timeout_s)
        self.sender.stopped = True
        self._wake.set()
        self._thread.join(CLOSING_PAUSE_S)
        if waiting := self.sender.cursor.n_waiting():
            log.warning(
                "%d tracking records wait in %s: they follow when the run is started again, or by "
                "dimts ui --sync %s",
                *(waiting, self._log, self._log.parent),
            )
        self._environment.close()

    def _run(self) -> None:
        """Send batch after batch until `close` was called and nothing waits."""
        n_failures, shown = 0, self._config.shown
        while not self.sender.stopped:
            closing = self._closing  # Read first: what is appended before it must be sent.
            try:
                done = self.sender.drain()
                if n_failures:
                    log.warning("tracking: %s answers again", shown)
                n_failures = 0
                if closing and done:
                    break
            except Exception as error:  # Whatever the store does, training goes on.
                if n_failures == 0:
                    log.warning(
                        "tracking: %s does not take records (%s); they wait in %s",
                        *(shown, reason(error), self._log),
                    )
                n_failures += 1
            pause = pause_after(n_failures, self._config.send_every_s)
            self._wake.wait(min(pause, CLOSING_PAUSE_S) if self._closing else pause)
            self._wake.clear()
        self.sender.cursor.unlock()


def pause_after(n_failures: int, send_every_s: float) -> float:
    """Seconds to wait after so many failures in a row."""
    doublings = min(n_failures, 10)  # A number of days of failures has no float.
    return min(send_every_s * 2**doublings, max(send_every_s, MAX_PAUSE_S))


def sync(config: TrackingConfig, run_dir: Path) -> int:
    """Send what waits in the event log of a run that is not running; the number of events.

    Raises:
        UserError: there is no log, or another process is sending it.
        Exception: whatever MLflow raised; the rest still waits.
    """
    run_dir = Path(run_dir).resolve()
    if not (run_dir / EVENTS).is_file():
        raise UserError(f"{run_dir}: holds no {EVENTS}, so nothing waits to be sent")
    sender = Sender(config.absolute(), run_dir)
    waiting = sender.cursor.n_waiting()
    try:
        with mlflow_environment():
            done = sender.drain()
        if not done:
            raise UserError(f"{run_dir}: the run is still going on and sends its records itself")
    finally:
        sender.cursor.unlock()
    return waiting

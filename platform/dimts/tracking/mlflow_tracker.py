"""MLflow as the record: everything goes to a spool on disk, a thread sends it from there."""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.dropped import Dropped
from dimts.tracking.mlflow_client import mlflow_environment, reason
from dimts.tracking.mlflow_model import forget_files
from dimts.tracking.mlflow_sender import Sender
from dimts.tracking.spool import Spool
from dimts.tracking.tracker import Status

log = logging.getLogger(__name__)

SPOOL = "tracking_spool"
LONGEST_PAUSE_S = 30.0
CLOSING_PAUSE_S = 0.5
# Optimizer moments and the like: twice the model's size, needed to resume and for nothing else.
NOT_IN_MODELS = ("trainer_state.pt",)
_NOT_IN_KEYS = re.compile(r"[^\w./ -]")


class MlflowTracker:
    """One MLflow run for one run of ours, through any number of restarts.

    The MLflow run's id is in ``<run folder>/mlflow_run.json``. See `Tracker` for the methods.
    """

    def __init__(self, config: TrackingConfig) -> None:
        self._config = config.absolute()
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = False
        self._abandoned = False
        self._told_dropping = False
        self._environment = ExitStack()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has answered once."""
        return self._sender.run_id if self._sender else None

    @property
    def dropped(self) -> Dropped:
        """What was not recorded, by earlier sessions too."""
        return self._opened.dropped

    def wait_for_run_id(self, timeout_s: float) -> str | None:
        """MLflow's id of the run as soon as the store has answered, for runs to be nested in it.

        Returns:
            None when the store did not answer within `timeout_s` seconds.
        """
        assert self._sender is not None, "start() comes first"
        self._sender.opened.wait(timeout_s)
        return self.run_id

    def start(
        self,
        run_name: str,
        run_dir: Path,
        params: Mapping[str, Any],
        config_yaml: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the run, or go on with the one in `run_dir`; the store is not asked here."""
        run_dir = Path(run_dir).resolve()
        self._spool = Spool(run_dir / SPOOL, self._config.spool_mb * 2**20)
        self._environment.enter_context(mlflow_environment())
        beginning = {
            "run_name": run_name,
            "params": {_key(name): mask_secrets(str(value)) for name, value in params.items()},
            "tags": _tags(tags or {}),
        }
        self._keep(lambda spool: spool.append("start", beginning, always=True))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(mask_secrets(config_yaml), encoding="utf-8")
            self.log_artifact(path)
        self._sender = Sender(self._config, run_dir, self._spool)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Append the tags to the spool."""
        fields = {"tags": _tags(tags)}
        self._keep(lambda spool: spool.append("tags", fields, always=True))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append the values to the spool."""
        fields = {"step": int(step), "values": {_key(k): float(v) for k, v in values.items()}}
        self._keep(lambda spool: spool.append("metrics", fields), int(step))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy the file into the spool."""
        if not Path(path).is_file():
            log.warning("tracking: %s is not there, so it is not recorded", path)
            return

        def keep(spool: Spool) -> bool:
            kept = spool.keep(Path(path))
            fields = {"file": kept, "folder": folder}
            return kept is not None and spool.append("artifact", fields, always=True)

        self._keep(keep)

    def log_model(self, bundle_dir: Path, metrics: Mapping[str, float], step: int = 0) -> None:
        """Copy the bundle into the spool, without what only resuming needs."""
        values = {_key(name): float(value) for name, value in metrics.items()}

        def keep(spool: Spool) -> bool:
            kept = spool.keep(Path(bundle_dir), always=True, skip=NOT_IN_MODELS)
            assert kept is not None, "a model is kept even when the spool is full"
            forget_files(spool.kept(kept), NOT_IN_MODELS)
            fields = {"file": kept, "step": int(step), "metrics": values}
            return spool.append("model", fields, always=True)

        self._keep(keep)

    def finish(self, status: Status) -> None:
        """End the run; wait up to ``flush_timeout_s`` for the store, then leave the rest."""
        self._keep(lambda spool: spool.append("finish", {"status": status}, always=True))
        self._closing = True
        self._wake.set()
        assert self._thread is not None
        self._thread.join(self._config.flush_timeout_s)
        self._abandoned = True
        self._wake.set()
        self._thread.join(CLOSING_PAUSE_S)
        if self._told_dropping:
            log.warning(
                "tracking records were dropped, as there was no place for them in %s: %s",
                self._opened.folder,
                self.dropped,
            )
        waiting = self._opened.n_pending()
        if waiting:
            log.warning(
                "%d tracking records wait in %s: they follow when the run is started again, or by "
                "dimts ui --sync %s",
                waiting,
                self._opened.folder,
                self._opened.folder.parent,
            )
        self._environment.close()

    @property
    def _opened(self) -> Spool:
        assert self._spool is not None, "start() comes first"
        return self._spool

    def _keep(self, write: Callable[[Spool], bool], step: int | None = None) -> None:
        """Write to the spool; a full spool or disk costs records, never the training."""
        try:
            problem = "" if write(self._opened) else f"tracking.spool_mb={self._config.spool_mb}"
        except OSError as error:
            problem = reason(error)
        if not problem:
            return
        self._opened.drop(step)
        if not self._told_dropping:
            self._told_dropping = True
            log.warning(
                "the tracking spool %s takes no more (%s): records are dropped until it does",
                self._opened.folder,
                problem,
            )

    def _run(self) -> None:
        try:
            self._send()
        finally:
            self._opened.unlock()

    def _send(self) -> None:
        """Send batch after batch until `finish` was called and nothing waits."""
        assert self._sender is not None
        n_failures = 0
        while not self._abandoned:
            closing = self._closing  # Read first: what is appended before it must be sent.
            if closing:
                self._opened.end_writing()
            try:
                done = self._sender.drain(lambda: self._abandoned)
                if n_failures:
                    self._tell_back()
                n_failures = 0
                if closing and done:
                    return
            except Exception as error:  # Whatever the store does, training goes on.
                if n_failures == 0:
                    self._tell_away(error)
                n_failures += 1
            pause = pause_after(n_failures, self._config.send_every_s)
            self._wake.wait(min(pause, CLOSING_PAUSE_S) if self._closing else pause)
            self._wake.clear()

    def _tell_back(self) -> None:
        dropped = f"; dropped meanwhile: {self.dropped}" if self._told_dropping else ""
        log.warning("tracking: %s answers again%s", self._config.shown, dropped)

    def _tell_away(self, error: Exception) -> None:
        log.warning(
            "tracking: %s does not take records (%s); they wait in %s",
            self._config.shown,
            reason(error, self._config.shown),
            self._opened.folder,
        )


def pause_after(n_failures: int, send_every_s: float) -> float:
    """Seconds to wait after so many failures in a row."""
    doublings = min(n_failures, 10)  # A number of days of failures has no float.
    return min(send_every_s * 2**doublings, max(send_every_s, LONGEST_PAUSE_S))


def sync(config: TrackingConfig, run_dir: Path) -> int:
    """Send what waits in the spool of a run that is not running.

    Returns:
        How many records were sent.

    Raises:
        UserError: there is no spool, or another process is sending it.
        Exception: whatever MLflow raised; the rest still waits.
    """
    from dimts.core.errors import UserError

    run_dir = Path(run_dir).resolve()
    if not (run_dir / SPOOL).is_dir():
        raise UserError(f"{run_dir}: holds no {SPOOL}, so nothing waits to be sent")
    spool = Spool(run_dir / SPOOL, config.spool_mb * 2**20)
    waiting = spool.n_pending()
    try:
        with mlflow_environment():
            done = Sender(config.absolute(), run_dir, spool).drain()
        if not done:
            raise UserError(f"{run_dir}: the run is still going on and sends its records itself")
    finally:
        spool.unlock()
    return waiting


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {_key(name): mask_secrets(str(value)) for name, value in tags.items()}


def _key(name: str) -> str:
    """`name` as MLflow allows it."""
    return _NOT_IN_KEYS.sub("_", name)[:250]

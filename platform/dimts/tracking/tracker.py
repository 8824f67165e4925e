"""What a run or a sweep records, and where it goes: the event log, MLflow, TensorBoard."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dimts.core.masking import mask_secrets
from dimts.tracking.config import TrackingConfig
from dimts.tracking.event_log import EventLog

if TYPE_CHECKING:
    from dimts.tracking.mlflow_thread import MlflowThread
    from dimts.tracking.tensorboard import TensorboardWriter

Status = Literal["FINISHED", "KILLED", "FAILED"]


class Tracker:
    """Writes the event log of a folder; a thread sends it to MLflow if ``tracking.enabled``.

    No method raises for a full disk or waits for a server, except `finish`, which waits at most
    ``flush_timeout_s``. Only the process that has called `start` sends.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path) -> None:
        self._config = config.absolute()
        self._run_dir = Path(run_dir).resolve()
        self._log = EventLog(self._run_dir)
        self._mlflow: MlflowThread | None = None
        self._tensorboard: TensorboardWriter | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the store has answered once."""
        return self._mlflow.sender.run_id if self._mlflow else None

    def wait_for_run_id(self, timeout_s: float) -> str | None:
        """The same as soon as the store has answered, or None after so long."""
        if self._mlflow:
            self._mlflow.sender.opened.wait(timeout_s)
        return self.run_id

    def start(
        self,
        run_name: str,
        params: Mapping[str, Any],
        config_yaml: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the run, or go on with the one that the folder has; the store is not asked here.

        Args:
            run_name: what people see.
            params, config_yaml: the resolved settings, flat and as a file.
            tags: for searching; ``mlflow.parentRunId`` nests the run.

        Raises:
            UserError: TensorBoard is asked for and not installed.
        """
        text = mask_secrets(config_yaml)
        if self._config.enabled and self._config.tensorboard:
            from dimts.tracking.tensorboard import TensorboardWriter

            self._tensorboard = TensorboardWriter(self._run_dir, text)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        start = {
            "host": platform.node(),
            "pid": os.getpid(),
            "run_name": run_name,
            "params": _masked(params),
            "tags": _masked(tags or {}),
        }
        self._log.append({"start": start})
        self._log.append({"artifact": "config.yaml", "folder": "", "content": text})
        if self._config.enabled:
            from dimts.tracking.mlflow_thread import MlflowThread

            self._mlflow = MlflowThread(self._config, self._run_dir)
            self._mlflow.start()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags to the run, or change them; ``mlflow.note.content`` describes it."""
        self._log.append({"tags": _masked(tags)})

    def log_text(self, text: str) -> None:
        """Record a line for people, which the console shows."""
        self._log.append({"text": text})

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step; NaN and infinity are values too.

        MLflow gets a key once a step: what a resumed run computes again is not sent again.
        """
        event = {"step": int(step), "values": {key: float(v) for key, v in values.items()}}
        self._log.append(event)
        if self._tensorboard:
            self._tensorboard.log_metrics(values, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file of the run's folder under `folder`; it is sent as it is at that time."""
        self._log.append({"artifact": self._relative(path), "folder": folder})

    def log_model(self, bundle_dir: Path, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record a bundle of the run's folder as a model; the same bundle is sent once."""
        values = {key: float(value) for key, value in metrics.items()}
        self._log.append(
            {"model": self._relative(bundle_dir), "step": int(step), "metrics": values}
        )

    def finish(self, status: Status) -> None:
        """End the run and wait a bounded time for what is not sent yet."""
        self._log.append({"end": status})
        self._log.warn_unwritten()
        if self._mlflow:
            self._mlflow.close()
        if self._tensorboard:
            self._tensorboard.close()

    def _relative(self, path: Path) -> str:
        path = Path(path).resolve()
        assert path.is_relative_to(self._run_dir), f"{path} is not in {self._run_dir}"
        return path.relative_to(self._run_dir).as_posix()


def _masked(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: mask_secrets(str(value)) for name, value in values.items()}

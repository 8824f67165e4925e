"""What a training tells the record, whichever record it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from dimts.tracking.config import TrackingConfig

Status = Literal["FINISHED", "KILLED", "FAILED"]


class Tracker(Protocol):
    """The record of one run, written by rank 0 only.

    After `start` no method raises or waits for a server, except `finish`, which waits at
    most ``flush_timeout_s``.
    """

    def start(
        self,
        run_name: str,
        run_dir: Path,
        params: Mapping[str, Any],
        config_yaml: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the run, or go on with the one that is recorded in `run_dir`.

        Args:
            run_name: what people see.
            run_dir: the run's local folder.
            params: flat settings, ``{"training.max_steps": 500}``.
            config_yaml: the resolved settings as a file.
            tags: for searching; ``mlflow.parentRunId`` nests the run.
        """

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add tags to the run, or change them; ``mlflow.note.content`` describes it."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step; NaN and infinity are values too.

        A key is recorded once a step: what a resumed run computes again is not sent again.
        """

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file under `folder` of the run; it is copied before this returns."""

    def log_model(self, bundle_dir: Path, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record a bundle as a model; a bundle that was recorded already is not sent again."""

    def finish(self, status: Status) -> None:
        """End the run and wait a bounded time for what is not sent yet."""


class Trackers:
    """Several records as one; none at all is fine."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def start(
        self,
        run_name: str,
        run_dir: Path,
        params: Mapping[str, Any],
        config_yaml: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        for tracker in self.trackers:
            tracker.start(run_name, run_dir, params, config_yaml, tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for tracker in self.trackers:
            tracker.set_tags(tags)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log_metrics(values, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        for tracker in self.trackers:
            tracker.log_artifact(path, folder)

    def log_model(self, bundle_dir: Path, metrics: Mapping[str, float], step: int = 0) -> None:
        for tracker in self.trackers:
            tracker.log_model(bundle_dir, metrics, step)

    def finish(self, status: Status) -> None:
        for tracker in self.trackers:
            tracker.finish(status)


def make_tracker(config: TrackingConfig) -> Tracker:
    """The records that `config` asks for.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """
    if not config.enabled:
        return Trackers([])
    # Here, so that a run without a record imports neither.
    from dimts.tracking.mlflow_tracker import MlflowTracker

    trackers: list[Tracker] = [MlflowTracker(config)]
    if config.tensorboard:
        from dimts.tracking.tensorboard import TensorboardTracker

        trackers.append(TensorboardTracker())
    return Trackers(trackers)

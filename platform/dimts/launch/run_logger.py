"""The trainer's `Callbacks` for a real run: event log, samples, result, held-out metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from dimts.bundles.bundle import resolve_bundle
from dimts.core.errors import UserError
from dimts.launch.local_run_folder import RemoteRun
from dimts.launch.names import RESULT
from dimts.launch.samples_page import write_samples_page
from dimts.launch.settings import Launch
from dimts.launch.stopping import stop_requested
from dimts.storage.files import write_text
from dimts.storage.paths import AnyPath
from dimts.tracking.tracker import Status, Tracker
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import BEST
from dimts.training.ownership import RunTakenOver
from dimts.training.progress import Result
from dimts.training.task import Task

Report = Callable[[dict[str, float]], None]


class RunLogger(Callbacks):
    """Callbacks of one worker; those that are not rank 0 only report.

    Args:
        launch, rank: the run, and of this worker.
        report: passes metrics on, to Ray Train for one.
        will_end: whether the machine has given notice; see `Callbacks.should_save`.
        copy: of the run in object storage, which gets each checkpoint.
    """

    def __init__(
        self,
        launch: Launch,
        rank: int = 0,
        report: Report | None = None,
        will_end: Callable[[], bool] = lambda: False,
        copy: RemoteRun | None = None,
    ):
        self.launch, self.rank, self.copy = launch, rank, copy
        self._report, self._will_end = report, will_end
        self._tracker = Tracker(launch.tracking, launch.run_dir)

    def start(self, note: str = "") -> None:
        """Begin the record, or go on with it; `note` is what a person should know of that."""
        if self.rank == 0:
            self._tracker.start(
                self.launch.title or self.launch.name,
                self.launch.params,
                self.launch.settings.config_yaml,
                self.launch.tags,
            )
            if note:
                self.notify(note)

    @contextmanager
    def recording(self, note: str = "") -> Iterator[Self]:
        """Inside, the run is recorded; one that another process takes up is that one's to end."""
        self.start(note)
        try:
            yield self
            self.end()
        except RunTakenOver:
            raise
        except BaseException:
            self.end("FAILED")
            raise

    def log(self, values: dict[str, float], step: int) -> None:
        self._tracker.log_metrics(values, step)

    def notify(self, text: str) -> None:
        self._tracker.log_text(text)

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        if self.copy and checkpoint:
            self.copy.send_soon()
        if self._report:
            self._report(metrics)

    def should_stop(self) -> bool:
        return stop_requested(self.launch.run_dir)

    def should_save(self) -> bool:
        return self._will_end()

    def sample(self, task: Task, step: int) -> None:
        folder = self.launch.run_dir / "samples"
        page = folder / "samples.html"
        try:
            samples, plots = task.sample(folder, step)
            if samples:
                write_samples_page(page, self.launch.name, samples)
        except (OSError, UserError, RuntimeError, MemoryError) as error:  # training goes on
            self.notify(f"no samples of step {step}: {' '.join(str(error).split())[:300]}")
            return
        new = [sample.wav for sample in samples if sample.step == step]
        for file in (*new, *plots):
            self._tracker.log_artifact(file, f"samples/{file.parent.name}")
        if samples:
            self._tracker.log_artifact(page, "samples")

    def finish(self, result: Result) -> None:
        """Write how training ended; what it has made is measured by `measure`."""
        if self.rank != 0:
            return
        place, best = self.launch.place, resolve_bundle(self.launch.run_dir / BEST)
        if result.status != "stopped" and not best.is_dir():
            self.notify("no voice: the loss on the validation split was never a number")
        values = {
            "status": result.status,
            "step": result.step,
            "seconds": result.seconds,
            "skipped_steps": result.skipped,
            "units": result.units,
            "checkpoint": str(place / result.checkpoint.name) if result.checkpoint else None,
            "best": str(place / best.name) if best.is_dir() else None,
            "metrics": result.best,
        }
        self._write_result(values)

    def measure(self, device: torch.device) -> None:
        """Held-out metrics of the best checkpoint, and the checkpoint as a model.

        Nothing of a run that was asked to stop, as it is to go on another time.
        """
        result = read_result(self.launch.run_dir)
        if result["status"] == "stopped" or result["best"] is None:
            return
        best, step = resolve_bundle(self.launch.run_dir / BEST), result["step"]
        metrics, before = self.launch.family.held_out(self.launch.settings, best, device)
        if before:
            self._tracker.log_metrics(before, 0)
        self._tracker.log_metrics(metrics, step)
        self._tracker.log_model(best, metrics, step)
        self._write_result(result | {"metrics": {**result["metrics"], **metrics}})

    def end(self, status: Status | None = None) -> None:
        """End the record, by how training ended if no status is given; waits a bounded time for
        what is not sent yet."""
        if self.rank == 0:
            stopped = status is None and read_result(self.launch.run_dir)["status"] == "stopped"
            self._tracker.finish(status or ("KILLED" if stopped else "FINISHED"))

    def _write_result(self, result: Mapping[str, Any]) -> None:
        write_text(self.launch.run_dir / RESULT, json.dumps(result, indent=2))


def read_result(run_dir: AnyPath) -> dict[str, Any]:
    """What `RunLogger.finish` wrote; a `UserError` if the run has not ended yet."""
    try:
        result: dict[str, Any] = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{run_dir}: has no {RESULT}, the run did not end") from None
    return result


def device_of(gpu: bool) -> torch.device:
    """The device to compute on; a `UserError` if a GPU is asked for and there is none."""
    if gpu and not torch.cuda.is_available():
        raise UserError("ray.gpu is on, but torch finds no CUDA device")
    return torch.device("cuda" if gpu else "cpu")

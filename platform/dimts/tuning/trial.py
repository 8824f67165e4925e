"""One trial in the process that runs it: a run like any other, which is asked to stop in time."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed as dist

from dimts.bundles.bundle import read_manifest, resolve_bundle
from dimts.core.errors import Diverged, UserError
from dimts.core.lock import locked
from dimts.core.masking import mask_secrets
from dimts.launch.local_run_folder import RemoteRun, local_run_folder
from dimts.launch.machine import resolve_on_machine
from dimts.launch.names import ENDING, LOCK
from dimts.launch.run_folder import acquire
from dimts.launch.run_logger import Report, RunLogger
from dimts.launch.settings import Launch
from dimts.launch.stopping import EARLY_FILE, STOP_FILE, stopped_early
from dimts.launch.training_run import run_training
from dimts.storage.files import write_text
from dimts.storage.paths import AnyPath, StorageError
from dimts.training.checkpoint import find_latest
from dimts.training.ownership import RunTakenOver
from dimts.training.progress import Result
from dimts.tuning.study import Ending, Outcome

ERROR = "error.txt"
BUSY = "process PID runs this trial"
LOCK_S = 90.0
"""How long a trial waits for a process of before the sweep was interrupted to notice its end."""

OnValidation = Callable[[dict[str, float]], None]
"""Called with ``validation`` (from 1) and ``loss``; returns when the sweep has decided."""


class Measured(NamedTuple):
    """Names of what is measured when a trial has ended, and what all trials are compared with; see
    `Family.measure`."""

    names: tuple[str, ...]
    shared: Mapping[str, float]


class TrialLogger(RunLogger):
    """The record of a trial: each validation is told, and only objectives are measured.

    Args:
        launch, rank, report, copy: see `RunLogger`.
        measured: beside the losses.
        on_validation: called with each validation.
    """

    def __init__(
        self,
        launch: Launch,
        measured: Measured,
        on_validation: OnValidation,
        copy: RemoteRun | None,
        rank: int = 0,
        report: Report | None = None,
    ):
        super().__init__(launch, rank, report, copy=copy)
        self._measured, self._on_validation = measured, on_validation
        self._selection = launch.family.selection(launch.settings).name
        self._began = time.monotonic()
        self._trained = (0, 0)

    def log(self, values: dict[str, float], step: int) -> None:
        super().log(values, step)
        if "train/epoch" in values:  # a log line of the loop
            units = next(v for k, v in values.items() if f"{k}_per_second" in values)
            self._trained = (step, int(units))

    def report_again(self) -> None:
        """Report the validation that stands in the latest checkpoint: the sweep may have been
        interrupted before it heard of it."""
        latest = find_latest(self.launch.run_dir)
        if self.rank == 0 and latest:
            manifest = read_manifest(latest, verify=False)
            # A manifest keeps no loss that is not finite.
            self._report_validation(manifest.step, {self._selection: math.nan, **manifest.metrics})

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        super().report(metrics, checkpoint)
        if self.rank == 0 and checkpoint:
            self._report_validation(read_manifest(checkpoint, verify=False).step, metrics)

    def conclude_trial(self, result: Result, device: torch.device) -> None:
        """Measure the objectives of a trial that ran to its end, and write how it ended."""
        if self.rank != 0:
            return
        run_dir = self.launch.run_dir
        outcome: Outcome | None = "finished"
        if result.status == "stopped":
            outcome = "stopped early" if stopped_early(run_dir) else None
        metrics = dict(result.best)
        if outcome == "finished" and result.best:  # without a finite loss there is no best one
            metrics |= self.launch.family.measure(
                self.launch.settings, resolve_bundle(run_dir), *self._measured, device
            )
        self._tracker.log_metrics({f"best/{k}": v for k, v in metrics.items()}, result.step)
        self._conclude(outcome, metrics, result.step, result.units)

    def give_up(self, outcome: Outcome, error: Exception) -> None:
        """The trial ends with nothing to show but how far it came; one worker alone may say so."""
        reason = " ".join(mask_secrets(str(error)).split())[:500]
        self._conclude(outcome, {}, *self._trained, reason)

    def _conclude(
        self, outcome: Outcome | None, metrics: Mapping[str, float], step: int, units: int,
        reason: str = "",
    ) -> None:  # fmt: skip
        """Write how the trial ended; no outcome means that it is to go on another time."""
        if outcome:
            seconds = time.monotonic() - self._began
            ending = Ending(outcome, metrics, step, units, seconds, reason)
            write_text(self.launch.run_dir / ENDING, json.dumps(ending._asdict()))
            if self.rank == 0:
                said = f"{outcome} at step {step} {reason}".strip()
                self._tracker.set_tags({"dimts.outcome": said})
        status = {None: "KILLED", "diverged": "FAILED", "failed": "FAILED"}.get(outcome, "FINISHED")
        self.end(status)  # type: ignore[arg-type]

    def _report_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        every = self.launch.settings.training.validate_every
        if step >= every and self._selection in metrics:
            self._on_validation({"validation": step // every, "loss": metrics[self._selection]})
            if self.copy:
                with suppress(StorageError):  # it is heard when the storage is back
                    self.copy.hear()  # of what the sweep has decided


def run_trial(
    launch: Launch, measured: Measured, on_validation: OnValidation, device: torch.device
) -> None:
    """Run a trial in this process to its end, or go on with it; `read_ending` says how it ended.

    Raises:
        UserError: another process keeps running this trial.
        Exception: what is no matter of the trial's settings; it is worth another try.
    """
    acquire(launch)
    forget_ending(launch.place)
    with (
        local_run_folder(launch, stays=False) as (launch, copy),
        locked(launch.run_dir / LOCK, f"{launch.run_dir}: {BUSY}", LOCK_S),
    ):
        forget_ending(launch.run_dir)
        train_trial(launch, measured, on_validation, device, copy)


def train_trial(
    launch: Launch,
    measured: Measured,
    on_validation: OnValidation,
    device: torch.device,
    copy: RemoteRun | None,
    rank: int = 0,
    report: Report | None = None,
) -> None:
    """The part of a trial that each of its workers does; arguments as of `TrialLogger`.

    Raises:
        UserError: in a group, whose other workers may not have met it.
        Exception: what is no matter of the trial's settings; it is worth another try.
    """
    if dist.is_initialized() and (launch.run_dir / ENDING).exists():
        return
    launch, note = resolve_on_machine(launch, device)
    logger = TrialLogger(launch, measured, on_validation, copy, rank, report)
    logger.start(note)
    try:
        logger.report_again()
        logger.conclude_trial(run_training(launch.settings, logger, device), device)
    except RunTakenOver:
        raise
    except StorageError:  # is no matter of the trial's settings
        logger.end("FAILED")
        raise
    except Diverged as error:
        logger.give_up("diverged", error)
    except (UserError, torch.OutOfMemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError) and dist.is_initialized():
            raise  # the other workers wait for this one
        logger.give_up("failed", error)
        if dist.is_initialized():
            raise  # likewise; started again, they find how the trial ended
    except BaseException:
        logger.end("FAILED")
        raise


# The folder of a trial


def forget_ending(place: AnyPath) -> None:
    """Forget how an earlier start of the trial ended: where it is, before anything is fetched from
    there, and in the folder of this machine."""
    for name in (STOP_FILE, EARLY_FILE, ENDING, ERROR):
        (place / name).unlink(missing_ok=True)


def read_ending(launch: Launch) -> Ending | None:
    """How a trial ended; None if it is to go on another time."""
    try:
        return Ending(**json.loads((launch.place / ENDING).read_text()))
    except FileNotFoundError:
        return None


def note_error(launch: Launch) -> None:
    """Keep the traceback of the exception that is being handled where the trial is."""
    launch.run_dir.mkdir(parents=True, exist_ok=True)
    write_text(launch.place / ERROR, mask_secrets(traceback.format_exc()))


def last_error(launch: Launch) -> str:
    """What a trial's process ended with, in one line; empty if it could not say."""
    try:
        lines = (launch.place / ERROR).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return ""
    said = [line for line in lines if line.strip() and not line.startswith(" ")]
    return said[-1].strip()[:500] if said else ""

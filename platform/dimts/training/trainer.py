"""The training loop: resume, step, log, validate, sample, checkpoint. Plain torch.

It knows neither Ray, nor MLflow, nor the model family. With `torch.distributed` initialised it is
data-parallel; what it reports goes to `Callbacks`. Randomness depends on the seed, the step and
the rank alone, so a run that goes on from a checkpoint repeats what an undisturbed one would do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from dimts.core.errors import UserError
from dimts.training.callbacks import Callbacks
from dimts.training.checkpointing import Checkpointer
from dimts.training.config import TrainingConfig
from dimts.training.distributed import from_rank_0, rank, world_size
from dimts.training.fitting import choose_threads, cut_smaller, fit_memory
from dimts.training.loader import BatchLoader, ScheduledBatch
from dimts.training.memory import read_parts
from dimts.training.precision import same_arithmetic
from dimts.training.progress import Result, Seconds
from dimts.training.state import TrainingState
from dimts.training.stepping import Stepper
from dimts.training.task import Task
from dimts.training.validation import validation_losses


def train(
    task: Task,
    config: TrainingConfig,
    run_dir: Path,
    callbacks: Callbacks,
    max_threads: int = 0,
) -> Result:
    """Train to the end, or until asked to stop, from the run's latest checkpoint if any.

    Args:
        task: what is trained on what.
        config: of the loop.
        run_dir: where checkpoints go.
        callbacks: are notified of what happens.
        max_threads: of which the number that is fastest is found out before the first step; 0
            leaves torch as it is.

    Raises:
        UserError: the loss was not finite too often in a row, a batch cannot be shared out, there
            is nothing to validate on, one utterance does not fit into memory, or the last
            checkpoint cannot be written.
        RunTakenOver: another process goes on with this run.
        OutOfMemory: a worker of several ran out of memory in a step; to be started again.
    """
    with same_arithmetic(task.device, config.amp):
        return Trainer(task, config, run_dir, callbacks, max_threads).run()


class Trainer:
    """One run of the loop in one process; see `train`."""

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        run_dir: Path,
        callbacks: Callbacks,
        max_threads: int = 0,
    ):
        self.task, self.config, self.run_dir, self.callbacks = task, config, run_dir, callbacks
        self.max_threads, self.rank = max_threads, rank()
        self.seconds = Seconds()
        self.state = TrainingState(task, config)
        on_gpu = task.device.type == "cuda"
        self.loader = BatchLoader(task, config, self.rank, world_size(), on_gpu)
        self.checkpoints = Checkpointer(task, config, run_dir, self.state)
        self.stepper = Stepper(self.state, config, run_dir, task.device, self.seconds, self._notify)

    def run(self) -> Result:
        self._resume()
        if self.state.progress.step < self.config.max_steps:
            with self.seconds.of("memory"):
                fit_memory(self.task, self.state, self.loader, self._notify)
                if self.max_threads:
                    choose_threads(
                        self.state, self.loader, self.max_threads, self.run_dir, self.config,
                        self._notify,
                    )  # fmt: skip
        progress = self.state.progress
        if self.config.validate_every and progress.step == 0:
            self._validate()  # a broken validation fails now, not after an epoch
            progress.best = None  # of no checkpoint: the first one that is trained is better
        status = self._steps()
        self.stepper.finish()
        unseen = progress.validated != progress.step and bool(self.config.validate_every)
        if status == "finished" and unseen:
            self._save(self._validate(), must=True)
        elif self.checkpoints.saved.step != progress.step:
            self._save(must=True)
        return Result(
            status,
            progress.step,
            progress.best or {},
            self.checkpoints.checkpoint,
            dict(self.seconds),
            progress.skipped,
            progress.units,
        )

    def _resume(self) -> None:
        """Go on from the latest checkpoint, in as many micro-batches as have been needed."""
        self.checkpoints.resume(self._notify)
        needed = min(read_parts(self.run_dir), self.loader.max_micro_batches())
        n = max(self.config.accumulate, self.state.progress.n_micro_batches, needed)
        self.state.progress.n_micro_batches = n
        if n > self.config.accumulate:
            self._notify(f"each batch is computed in {n} micro-batches, as before")
        if note := self.state.extend(self.config.max_steps):
            self._notify(note)

    def _steps(self) -> Literal["finished", "stopped", "early_stopped"]:
        config, batches, progress = self.config, self._batches_ahead(), self.state.progress
        intervals = (config.log_every, config.validate_every, config.sample_every)
        started = time.perf_counter()
        try:
            while progress.step < config.max_steps:
                if config.patience and progress.since_best >= config.patience:
                    return "early_stopped"
                self.checkpoints.check_claim()
                if not self.stepper.step(batches, self.callbacks.should_stop):
                    batches.close()
                    cut_smaller(self.state, self.loader, self._notify)
                    batches = self._batches_ahead()
                    continue
                if self._due(*intervals, config.checkpoint_every):
                    with self.seconds.of("step"):
                        self.stepper.finish()  # the device may not have finished it
                if self._due(config.log_every):
                    self._log(time.perf_counter() - started)
                    started = time.perf_counter()
                before = time.perf_counter()
                self._after_step()
                started += time.perf_counter() - before  # units per second are of steps
                if self.stepper.stop:
                    return "stopped"
        finally:
            batches.close()
        return "finished"

    def _batches_ahead(self) -> Generator[ScheduledBatch]:
        progress = self.state.progress
        return self.loader.ahead(progress.position, progress.n_micro_batches)

    def _log(self, seconds: float) -> None:
        """Means over the steps since the last call that were not left out."""
        unit, state = self.task.unit, self.state
        epoch, batch, _ = state.progress.position
        values = state.losses.means()
        values |= {
            "train/learning_rate": state.objectives[0].optimizer.param_groups[0]["lr"],
            f"train/{unit}_per_second": self.stepper.timed_units / seconds,
            "train/data_wait_share": self.seconds["data"]
            / (self.seconds["data"] + self.seconds["step"]),
            "train/skipped_steps": state.progress.skipped,
            "train/epoch": epoch + batch / self.loader.sampler.batches_of(epoch),
            f"train/{unit}": state.progress.units,
        }
        state.losses.clear()
        self.stepper.timed_units = 0
        if self.rank == 0:
            self.callbacks.log(values, state.progress.step)

    def _after_step(self) -> None:
        config, improved = self.config, False
        if self._due(config.validate_every):
            improved = self._validate()
        if self._due(config.sample_every) and self.rank == 0:
            with self.seconds.of("sample"), self.state.average.applied():
                self.state.objectives[0].module.eval()
                self.callbacks.sample(self.task, self.state.progress.step)
        unasked = self._due(config.log_every) and self.callbacks.should_save()
        if improved or unasked or self._due(config.checkpoint_every):
            self._save(improved)
        elif self._due(config.validate_every):
            self.callbacks.report(self.state.progress.latest or {}, None)

    def _due(self, *intervals: int) -> bool:
        """Whether one of the intervals ends with this step; 0 never does."""
        return any(every and self.state.progress.step % every == 0 for every in intervals)

    def _validate(self) -> bool:
        """Losses of the weights that would ship, on the validation split; whether the best."""
        progress, objectives = self.state.progress, self.state.objectives
        with self.seconds.of("validation"), self.state.average.applied():
            module = objectives[0].module.eval()
            values = validation_losses(self.task.val, module, progress.moment, self.task.device)
            if listen := self.task.listen:
                values |= from_rank_0(dict(listen()) if self.rank == 0 else {}, self.task.device)
        if self.rank == 0:
            self.callbacks.log(values, progress.step)
        progress.latest = values
        best, metric = progress.best, self.task.selection
        begun = max(objective.start_step for objective in objectives)
        if progress.best_step <= begun < progress.step:
            best = None  # of a phase without that objective, which the metric may know nothing of
        if best and metric.name not in best:
            best = None  # chosen by another metric, before the run went on
        value = values[metric.name]
        better = math.isfinite(value) and (best is None or metric.better(value, best[metric.name]))
        progress.validated = progress.step
        if better:
            progress.best = values
        # Before all objectives have begun, nothing that was found ends the run.
        progress.since_best = 0 if better or progress.step <= begun else progress.since_best + 1
        return better

    def _save(self, best: bool = False, must: bool = False) -> None:
        """A checkpoint, which every rank reports.

        Raises:
            UserError: it could not be written although it `must`.
        """
        with self.seconds.of("checkpoint"):
            checkpoint, failure = self.checkpoints.save(best)
        # Of rank 0 alone: Ray refuses two, and the others have seen none but that they began with.
        self.callbacks.report(self.state.progress.latest or {}, checkpoint)
        if failure and must:
            raise UserError(f"{failure}; make room and start the run again")
        if failure:
            self._notify(f"{failure}; training goes on")

    def _notify(self, text: str) -> None:
        if self.rank == 0:
            self.callbacks.notify(text)

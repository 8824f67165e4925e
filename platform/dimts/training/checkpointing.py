"""A run's checkpoints as the trainer sees them: written by rank 0, gone on from by all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dimts.bundles.bundle import BundleError
from dimts.storage.files import remove_files
from dimts.training.checkpoint import (
    NotWritten,
    find_latest,
    point_to,
    read_state,
    save_checkpoint,
)
from dimts.training.config import TrainingConfig
from dimts.training.distributed import from_rank_0, rank
from dimts.training.ownership import Claim
from dimts.training.progress import Progress
from dimts.training.state import TrainingState
from dimts.training.task import Task


class Checkpointer:
    """Saves a run and goes on with it, and takes it up before.

    Attributes:
        saved: where the last checkpoint stands.
        checkpoint: the last one.
    """

    def __init__(self, task: Task, config: TrainingConfig, run_dir: Path, state: TrainingState):
        self._task, self._config, self._run_dir, self._state = task, config, run_dir, state
        self._claim = Claim(run_dir) if rank() == 0 else None
        self.saved = Progress(step=-1)
        self.checkpoint: Path | None = None

    def check_claim(self) -> None:
        """Raise `RunTakenOver` if another process goes on with the run."""
        if self._claim:
            self._claim.check()

    def save(self, best: bool) -> tuple[Path | None, str]:
        """Write a checkpoint; unvalidated, the latest is the best.

        Returns:
            The checkpoint, on rank 0 alone, and why there is none, on every rank: then those
            before it stay.
        """
        progress, checkpoint, failure = self._state.progress, None, ""
        if best or not self._config.validate_every:
            progress.best_step = progress.step
        state = self._state.state_dict()
        if rank() == 0:
            self.check_claim()
            try:
                checkpoint = save_checkpoint(
                    self._run_dir,
                    progress.position.epoch,
                    progress.step,
                    state,
                    self._write_bundle,
                    progress.best_step,
                    self._config.keep_checkpoints,
                    self.check_claim,
                )
            except NotWritten as error:
                failure = f"{self._run_dir}: no checkpoint of step {progress.step}: {error}"
        failure = from_rank_0(failure, self._task.device)
        if failure:  # what is best has to be there
            progress.best, progress.best_step = self.saved.best, self.saved.best_step
        else:
            self.checkpoint, self.saved = checkpoint or self.checkpoint, replace(progress)
        return checkpoint, failure

    def _write_bundle(self, folder: Path) -> None:
        progress = self._state.progress
        facts = {
            "step": progress.step,
            "epoch": progress.position.epoch,
            "metrics": {k: v for k, v in (progress.latest or {}).items() if math.isfinite(v)},
        }
        with self._state.average.applied():
            self._task.write_bundle(folder, dict(self._task.model.state_dict()), facts)

    def resume(self, notify: Callable[[str], None]) -> None:
        """Go on from the latest checkpoint that is whole, if there is one.

        What rank 0 sees is what all go on from, whatever a shared disk shows the others.

        Raises:
            BundleError: its state is not one of this training.
        """
        latest = None
        if rank() == 0:
            remove_files(self._run_dir, ".checkpoint_")  # of writes that were killed
            latest = find_latest(self._run_dir, notify)
        if not (name := from_rank_0(latest and latest.name, self._task.device)):
            return
        self.checkpoint = self._run_dir / name
        try:
            self._state.load_state_dict(read_state(self.checkpoint))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(
                f"{self.checkpoint}: is not a state of this training: {why}"
            ) from error
        self.saved = replace(self._state.progress)
        if rank() == 0:
            point_to(self.checkpoint, self.saved.best_step)
        notify(f"going on from {name}")

"""A run's checkpoints over all its workers: rank 0 writes, and all agree on how that went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from dimts.bundles.bundle import BundleError
from dimts.core.errors import UserError
from dimts.training.checkpoint import (
    NotWritten,
    clear_partial,
    find_latest,
    point_to,
    read_state,
    save_checkpoint,
)
from dimts.training.ownership import Claim
from dimts.training.progress import Progress
from dimts.training.trainer_state import TrainerState

T = TypeVar("T")


class Saver:
    """Reads and writes the checkpoints of a run, which it takes up; see `Claim`.

    Args:
        run_dir: the run's folder, which all workers see.
        rank: of this worker.
        device: that workers talk to each other by.
        keep: how many of the latest checkpoints stay.
        notify: called on rank 0 with what a person should know.

    Attributes:
        checkpoint: the last one that was written or gone on from.
        step: its step; -1 if there is none.
        best, best_step: metrics of the best checkpoint that is there, and its step.
    """

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        device: torch.device,
        keep: int,
        notify: Callable[[str], None],
    ):
        self._run_dir, self._rank, self._device, self._keep = run_dir, rank, device, keep
        self._notify = notify
        self._claim = Claim(run_dir) if rank == 0 else None
        self.checkpoint: Path | None = None
        self.step = -1
        self.best: dict[str, float] | None = None
        self.best_step = -1

    def check(self) -> None:
        """Nothing while the run is still ours.

        Raises:
            RunTakenOver: another process goes on with it.
        """
        if self._claim:
            self._claim.check()

    def resume(self, state: TrainerState) -> Progress | None:
        """Go on from the latest checkpoint that is whole; None if there is none.

        What rank 0 sees is what all go on from, whatever a shared disk shows the others.

        Raises:
            BundleError: the state is not one of this training.
        """
        name = ""
        if self._rank == 0:
            clear_partial(self._run_dir)
            latest = find_latest(self._run_dir, self._notify)
            name = latest.name if latest else ""
        if not (name := self.of_rank_0(name)):
            return None
        checkpoint = self._run_dir / name
        try:
            progress = state.restore(read_state(checkpoint))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            first = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(f"{checkpoint}: is not a state of this training: {first}") from error
        self.checkpoint = checkpoint
        self._note(progress)
        if self._rank == 0:
            point_to(checkpoint, progress.best_step)
        self._notify(f"going on from {name}")
        return progress

    def save(
        self,
        state: TrainerState,
        progress: Progress,
        write_bundle: Callable[[Path], None],
    ) -> str:
        """Write a checkpoint; every rank calls this. Where it fails, those before it stay.

        Returns:
            Why it could not be written, the same on every rank; empty if it was.

        Raises:
            RunTakenOver: another process goes on with this run.
        """
        collected, failure = state.collect(progress), ""
        if self._rank == 0:
            try:
                self._write(collected, progress, write_bundle)
            except NotWritten as error:
                failure = str(error)
        if not (failure := self.of_rank_0(failure)):
            self._note(progress)
        return failure

    def _note(self, progress: Progress) -> None:
        self.step, self.best, self.best_step = progress.step, progress.best, progress.best_step

    def _write(
        self,
        state: dict[str, Any],
        progress: Progress,
        write_bundle: Callable[[Path], None],
    ) -> None:
        self.check()
        self.checkpoint = save_checkpoint(
            self._run_dir,
            progress.position.epoch,
            progress.step,
            state,
            write_bundle,
            progress.best_step,
            self._keep,
            self.check,
        )

    def of_rank_0(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        shared = [value]
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast_object_list(shared, device=self._device)
        return shared[0]

    def refused(self, step: int, why: str) -> UserError:
        """That the checkpoint a run has to end with could not be written."""
        return UserError(f"{self.missing(step, why)}; make room and start the run again")

    def missing(self, step: int, why: str) -> str:
        """That a checkpoint could not be written."""
        return f"{self._run_dir}: no checkpoint of step {step}: {why}"

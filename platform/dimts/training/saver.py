"""A run's checkpoints over all its workers: rank 0 writes, and all agree on how that went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dimts.bundles.bundle import BundleError
from dimts.storage.paths import remove_files
from dimts.training.checkpoint import (
    NotWritten,
    find_latest,
    point_to,
    read_state,
    save_checkpoint,
)
from dimts.training.distributed import from_rank_0
from dimts.training.ownership import Claim
from dimts.training.progress import Progress


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
        self.step = self.best_step = -1
        self.best: dict[str, float] | None = None

    def check(self) -> None:
        """Nothing while the run is still ours.

        Raises:
            RunTakenOver: another process goes on with it.
        """
        if self._claim:
            self._claim.check()

    def resume(self, restore: Callable[[dict[str, Any]], Progress]) -> Progress | None:
        """Go on from the latest checkpoint that is whole; None if there is none.

        What rank 0 sees is what all go on from, whatever a shared disk shows the others.

        Raises:
            BundleError: the state is not one of this training.
        """
        latest = None
        if self._rank == 0:
            remove_files(self._run_dir, ".checkpoint_")  # of writes that were killed
            latest = find_latest(self._run_dir, self._notify)
        if not (name := from_rank_0(latest and latest.name, self._device)):
            return None
        self.checkpoint = self._run_dir / name
        try:
            progress = restore(read_state(self.checkpoint))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            first = " ".join(str(error).split())[:200] or type(error).__name__
            raise BundleError(
                f"{self.checkpoint}: is not a state of this training: {first}"
            ) from error
        self._note(progress)
        if self._rank == 0:
            point_to(self.checkpoint, progress.best_step)
        self._notify(f"going on from {name}")
        return progress

    def save(
        self, state: dict[str, Any], progress: Progress, write_bundle: Callable[[Path], None]
    ) -> str:
        """Write a checkpoint; every rank calls this. Where it fails, those before it stay.

        Returns:
            Why it could not be written, the same on every rank; empty if it was.

        Raises:
            RunTakenOver: another process goes on with this run.
        """
        failure = ""
        if self._rank == 0:
            self.check()
            try:
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
            except NotWritten as error:
                failure = f"{self._run_dir}: no checkpoint of step {progress.step}: {error}"
        if not (failure := from_rank_0(failure, self._device)):
            self._note(progress)
        return failure

    def _note(self, progress: Progress) -> None:
        self.step, self.best, self.best_step = progress.step, progress.best, progress.best_step

"""What the trainer tells its surroundings, and what it asks of them."""

from __future__ import annotations

from pathlib import Path

from dimts.training.task import Task


class Callbacks:
    """Called by the trainer; what a subclass does not override ignores it and never stops it."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Metrics of a step; rank 0 only."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """After each validation or checkpoint, equally often on every rank."""

    def sample(self, task: Task, step: int) -> None:
        """Make samples with the weights that would ship; rank 0 only."""

    def notify(self, text: str) -> None:
        """Something a person should know, in one line; rank 0 only."""

    def should_stop(self) -> bool:
        """Whether to end after this step with a checkpoint; asked on rank 0 only."""
        return False

    def should_save(self) -> bool:
        """Whether the end may come unasked for, so that a checkpoint is worth its time; asked on
        every rank after the same steps, and answered alike."""
        return False

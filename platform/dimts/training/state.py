"""All that training changes: weights, optimizers, averages, losses not yet logged, progress."""

from __future__ import annotations

from typing import Any

import torch

from dimts.training.config import TrainingConfig
from dimts.training.distributed import world_size
from dimts.training.objective import TrainedObjective
from dimts.training.optimizer import MovingAverage, extended_share
from dimts.training.progress import Progress
from dimts.training.sampler import Position
from dimts.training.step_result import LossAccumulator
from dimts.training.task import Task


class TrainingState:
    """What a checkpoint holds of the trainer; a run that goes on from it is the same bit for bit.

    Attributes:
        objectives: with their optimizers.
        average: of the weights that ship.
        losses: of the steps since the last log line.
        progress: where the run stands.
    """

    def __init__(self, task: Task, config: TrainingConfig):
        self._device = task.device
        self.objectives = [
            TrainedObjective(o, task.device, world_size(), config.amp == "fp16")
            for o in task.objectives
        ]
        self.average = MovingAverage(task.model, config.ema_decay)
        self.losses = LossAccumulator()
        self.progress = Progress()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only; called on every rank."""
        return {
            "progress": {**vars(self.progress), "position": list(self.progress.position)},
            "objectives": {o.name: o.state_dict() for o in self.objectives},
            "average": self.average.weights or None,
            "losses": self.losses.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, on whatever device."""
        for objective in self.objectives:
            objective.load_state_dict(state["objectives"][objective.name])
        for name, weight in self.average.weights.items():
            weight.copy_(state["average"][name])
        self.losses.load_state_dict(state["losses"], self._device)
        progress = state["progress"]
        self.progress = Progress(**{**progress, "position": Position(*progress["position"])})

    def extend(self, max_steps: int) -> str:
        """Begin the schedule of `max_steps`, or a longer one than that of the steps so far; what a
        person should know of that, if anything."""
        progress, before = self.progress, self.progress.max_steps
        progress.max_steps = max_steps
        if before == 0:
            progress.planned_steps = max_steps
        if not 0 < before < max_steps:
            return ""
        progress.shares_before = {
            o.name: self.learning_rate_share(o, progress.step, before)
            for o in self.objectives
            if progress.step >= o.start_step
        }
        progress.extended_at, progress.since_best = progress.step, 0
        return (
            f"{max_steps} steps instead of {before}: from step {progress.step} on the learning "
            f"rate goes to that of a run of {max_steps}, in "
            f"{self.objectives[0].config.warmup_steps} steps"
        )

    def learning_rate_share(self, objective: TrainedObjective, step: int, max_steps: int) -> float:
        """Share of the learning rate at a step, on the schedule of `max_steps`."""
        progress, since = self.progress, objective.start_step
        return extended_share(
            step - since,
            max_steps - since,
            objective.config,
            progress.extended_at - since if progress.extended_at >= 0 else -1,
            progress.shares_before.get(objective.name, 0.0),
        )

    def zero_gradients(self) -> None:
        """Of all objectives."""
        for objective in self.objectives:
            objective.optimizer.zero_grad(set_to_none=True)

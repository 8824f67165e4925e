"""What a checkpoint holds beside the bundle, so that a run goes on bit for bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from dimts.training.optimizer import MovingAverage
from dimts.training.progress import Progress
from dimts.training.sampler import Position
from dimts.training.step_result import LossAccumulator


class Trained(NamedTuple):
    """One objective's module with what trains it."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


class TrainerState(NamedTuple):
    """All that a step changes."""

    objectives: dict[str, Trained]
    average: MovingAverage | None
    losses: LossAccumulator
    device: torch.device

    def collect(self, progress: Progress) -> dict[str, Any]:
        """Tensors and plain values only; called on every rank."""
        return {
            "progress": {**vars(progress), "position": list(progress.position)},
            "objectives": {
                name: {
                    "weights": {n: t.detach() for n, t in _state(trained.module).items()},
                    "optimizer": trained.optimizer.state_dict(),
                    "scaler": trained.scaler.state_dict(),
                }
                for name, trained in self.objectives.items()
            },
            "average": self.average.weights if self.average else None,
            "losses": self.losses.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> Progress:
        """Take over what `collect` gave, on whatever device."""
        for name, trained in self.objectives.items():
            kept = state["objectives"][name]
            for key, tensor in _state(trained.module).items():
                tensor.copy_(kept["weights"][key])
            trained.optimizer.load_state_dict(kept["optimizer"])
            trained.scaler.load_state_dict(kept["scaler"])
        if self.average:
            for name, weight in self.average.weights.items():
                weight.copy_(state["average"][name])
        self.losses.load_state_dict(state["losses"], self.device)
        progress = state["progress"]
        return Progress(**{**progress, "position": Position(*progress["position"])})


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters as they are, and the buffers that a state dict has."""
    parameters: dict[str, torch.Tensor] = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    kept = {name: buffers[name] for name in module.state_dict() if name in buffers}
    return parameters | kept

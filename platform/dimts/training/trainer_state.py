"""What a checkpoint holds beside the bundle, so that a run goes on bit for bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dimts.families.acoustic.model.t3 import T3
from dimts.training.job import Progress
from dimts.training.optimizer import MovingAverage
from dimts.training.sampler import Position
from dimts.training.step_result import Window


class TrainerState(NamedTuple):
    """All that a step changes."""

    model: T3
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    window: Window

    def collect(self, progress: Progress) -> dict[str, Any]:
        """Tensors and plain values only; called on every rank."""
        return {
            "progress": {**vars(progress), "position": list(progress.position)},
            "weights": {n: p.detach() for n, p in self.model.named_parameters()},
            "average": self.average.weights if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "window": self.window.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> Progress:
        """Take over what `collect` gave, on whatever device."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(state["weights"][name])
        if self.average:
            for name, weight in self.average.weights.items():
                weight.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.window.load_state_dict(state.get("window", {}), self.model.mel_mean_M.device)
        progress = state["progress"]
        return Progress(**{**progress, "position": Position(*progress["position"])})

"""An objective as the trainer holds it: its module with what trains it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dimts.training.optimizer import build_optimizer
from dimts.training.task import Batch, Losses, Moment, Objective


class TrainedObjective:
    """An objective with its optimizer, its gradient scaler and, for several workers, its DDP."""

    def __init__(self, objective: Objective, device: torch.device, world_size: int, fp16: bool):
        self.name, self.module = objective.name, objective.module
        self.config, self.start_step = objective.optimizer, objective.start_step
        self._device, self._world_size = device, world_size
        self.parallel: nn.Module = self.module
        if world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Its buffers are constants. Gradients are sent from where they lie, without a copy.
            self.parallel = DistributedDataParallel(
                self.module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = build_optimizer(self.module, self.config)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=fp16)

    def no_sync(self) -> AbstractContextManager[Any]:
        """Inside, gradients stay with this worker."""
        if isinstance(self.parallel, DistributedDataParallel):
            return self.parallel.no_sync()
        return nullcontext()

    def backward(self, batch: Batch, moment: Moment, alone: bool = False) -> Losses:
        """Add the gradients of a micro-batch, of this worker `alone` or averaged over all."""
        module = self.module if alone else self.parallel
        losses: Losses = module(batch.to(self._device), moment)
        minimised = next(iter(losses.values()))
        # Losses are shares of the whole batch, and DDP takes the mean over the workers.
        scaled = minimised * self._world_size if self._world_size > 1 else minimised
        self.scaler.scale(scaled).backward()
        return losses

    def state_dict(self) -> dict[str, Any]:
        """What training changes: tensors and plain values only."""
        return {
            "weights": {name: tensor.detach() for name, tensor in self._tensors().items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, on whatever device."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters as they are, and the buffers that a state dict has."""
        buffers = dict(self.module.named_buffers())
        kept = {name: buffers[name] for name in self.module.state_dict() if name in buffers}
        return dict(self.module.named_parameters()) | kept

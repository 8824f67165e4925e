"""What the device found of a step, for the CPU to read when it has long been there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from dimts.training.distributed import rank, world_size
from dimts.training.task import Losses


class ObjectiveResult(NamedTuple):
    """What one objective's update found: this worker's share of the losses, the gradient's norm,
    and `reduce_flags`, all on the device."""

    name: str
    losses: Losses
    norm: Tensor
    flags: Tensor


class StepResult:
    """Of one step with a batch of `size` units, the same on all ranks; its flags are on their way
    to the CPU."""

    def __init__(
        self, step: int, ids: Sequence[str], size: int, objectives: Sequence[ObjectiveResult]
    ):
        self.step, self.ids, self.size, self.objectives = step, ids, size, objectives
        flags = torch.stack([result.flags for result in objectives])
        self._flags = flags.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if flags.is_cuda else None
        if self._arrived:
            self._arrived.record()

    def read(self) -> tuple[bool, bool]:
        """Whether a loss was bad and whether a rank wants to stop; waits for the device."""
        if self._arrived:
            self._arrived.synchronize()
        _, bad, stop = self._flags.amax(0).tolist()
        return bool(bad), bool(stop)


def reduce_flags(left_out: Tensor, bad: Tensor, stop: bool) -> Tensor:
    """Three flags, each raised as soon as one rank raises it: float32 [3] on the device.

    Args:
        left_out: bool [], the optimizer must change nothing.
        bad: bool [], the loss is not finite, which counts.
        stop: this rank is asked to stop.
    """
    flags = torch.stack((left_out, bad, bad.new_full((), stop))).float()
    if world_size() > 1:
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return flags


class LossAccumulator:
    """Losses and gradient norms of the steps since the last log line, left-out ones excepted."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, results: Sequence[ObjectiveResult]) -> None:
        for result in results:
            names = self._names.setdefault(result.name, [])
            names += [name for name in result.losses if name not in names]
            absent = result.norm.new_full((), torch.nan)
            row = torch.stack([result.losses.get(name, absent) for name in names])
            self._rows.setdefault(result.name, []).append((row, result.norm))

    def clear(self) -> None:
        self._rows.clear()
        self._names.clear()

    def means(self) -> dict[str, float]:
        """``train/*`` over the steps and all ranks; nothing of none."""
        values: dict[str, float] = {}
        for number, (name, kept) in enumerate(self.state_dict().items()):
            means = kept["losses"].nanmean(0).tolist()
            values |= {f"train/{n}": v for n, v in zip(kept["names"], means, strict=True)}
            norms = kept["norms"]
            key = "train/gradient_norm" if number == 0 else f"train/{name}_gradient_norm"
            values[key] = float(norms[norms.isfinite()].mean())
        return values

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """By objective: names, losses [steps, names], summed over ranks, gradient norms [steps]."""
        state: dict[str, dict[str, Any]] = {}
        for name, rows in self._rows.items():
            n = len(self._names[name])  # a loss may be new since the first of the rows
            losses = torch.stack([F.pad(r, (0, n - len(r)), value=torch.nan) for r, _ in rows])
            norms = torch.stack([norm for _, norm in rows])
            if world_size() > 1:
                dist.all_reduce(losses)
            state[name] = {"losses": losses, "norms": norms, "names": self._names[name]}
        return state

    def load_state_dict(self, state: dict[str, dict[str, Any]], device: torch.device) -> None:
        """Take over what `state_dict` gave, the same on all ranks."""
        self.clear()
        for name, kept in state.items():
            self._names[name] = list(kept["names"])
            losses, norms = kept["losses"].to(device), kept["norms"].to(device)
            if rank() > 0:  # they are sums over the ranks already
                losses = torch.zeros_like(losses)
            self._rows[name] = list(zip(losses, norms, strict=True))

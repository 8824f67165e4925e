"""What the device found of a step, for the CPU to read when it has long been there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from dimts.training.task import Losses


@dataclass(frozen=True)
class ObjectiveResult:
    """What one objective's update found; see `reduce_flags` for `flags`.

    Attributes:
        name: of the objective.
        losses, norm: this worker's share of the losses, and the gradient's norm, on the device.
        flags: float32 [3], the same on all ranks.
    """

    name: str
    losses: Losses
    norm: Tensor
    flags: Tensor


@dataclass(frozen=True)
class StepResult:
    """Of one step, the same on all ranks.

    Attributes:
        step: which.
        ids: of its utterances, over all workers.
        size: of the whole batch over all workers, in units.
        objectives: their results.
        flags: float32 [objectives, 3], on its way to the CPU.
        arrived: when it is there; None where it is already.
    """

    step: int
    ids: Sequence[str]
    size: int
    objectives: Sequence[ObjectiveResult]
    flags: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(
        cls, step: int, ids: Sequence[str], size: int, objectives: Sequence[ObjectiveResult]
    ) -> StepResult:
        """A result whose flags are being sent to the CPU."""
        flags = torch.stack([result.flags for result in objectives])
        if not flags.is_cuda:
            return cls(step, ids, size, objectives, flags, None)
        host, arrived = flags.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        return cls(step, ids, size, objectives, host, arrived)

    def read(self) -> tuple[bool, bool]:
        """Whether a loss was bad and whether a rank wants to stop; waits for the device."""
        if self.arrived:
            self.arrived.synchronize()
        _, bad, stop = self.flags.amax(0).tolist()
        return bool(bad), bool(stop)


def reduce_flags(left_out: Tensor, bad: Tensor, stop: bool) -> Tensor:
    """Three flags, each raised as soon as one rank raises it: float32 [3] on the device.

    Args:
        left_out: bool [], the optimizer must change nothing.
        bad: bool [], the loss is not finite, which counts.
        stop: this rank is asked to stop.
    """
    flags = torch.stack((left_out, bad, bad.new_full((), stop))).float()
    if dist.is_initialized():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return flags


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether one rank at least raises the flag; each waits for all the others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


class LossAccumulator:
    """Losses and gradient norms of the steps since the last log line, left-out ones excepted."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._names: dict[str, list[str]] = {}
        self._known: dict[str, dict[str, Tensor]] = {}  # what a checkpoint had, over all ranks

    def add(self, results: Sequence[ObjectiveResult]) -> None:
        for result in results:
            self._names[result.name] = list(result.losses)
            row = torch.stack(list(result.losses.values())), result.norm
            self._rows.setdefault(result.name, []).append(row)

    def clear(self) -> None:
        self._rows.clear()
        self._known.clear()

    def means(self) -> dict[str, float]:
        """``train/*`` over the steps and all ranks; nothing of none."""
        values: dict[str, float] = {}
        for number, (name, stacked) in enumerate(self._stacked().items()):
            means = stacked["losses"].mean(0).tolist()
            values |= {f"train/{n}": v for n, v in zip(self._names[name], means, strict=True)}
            norms = stacked["norms"]
            key = "train/gradient_norm" if number == 0 else f"train/{name}_gradient_norm"
            values[key] = float(norms[norms.isfinite()].mean())
        return values

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What a run that goes on from here needs to write the same next line."""
        return {name: {**s, "names": self._names[name]} for name, s in self._stacked().items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]], device: torch.device) -> None:
        """Take over what `state_dict` gave, the same on all ranks."""
        self.clear()
        for name, kept in state.items():
            self._names[name] = kept["names"]
            self._known[name] = {key: kept[key].to(device) for key in ("losses", "norms")}

    def _stacked(self) -> dict[str, dict[str, Tensor]]:
        """By objective: losses [steps, parts], summed over ranks, and gradient norms [steps]."""
        stacked = dict(self._known)
        for name, rows in self._rows.items():
            losses = torch.stack([loss for loss, _ in rows])
            norms = torch.stack([norm for _, norm in rows])
            if dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(losses)
            if name in self._known:
                losses = torch.cat((self._known[name]["losses"], losses))
                norms = torch.cat((self._known[name]["norms"], norms))
            stacked[name] = {"losses": losses, "norms": norms}
        return stacked

"""What the device found of a step, for the CPU to read when it has long been there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from dimts.model.loss import TTSLoss


@dataclass(frozen=True)
class Verdict:
    """Of one step, the same on all ranks.

    Attributes:
        step: which.
        ids: of its utterances.
        n_frames: of the whole batch over all workers.
        loss, norm: its parts and the gradient's norm, on the device.
        votes: see `vote`; on its way to the CPU.
        arrived: when it is there; None where it is already.
    """

    step: int
    ids: list[str]
    n_frames: int
    loss: TTSLoss
    norm: Tensor
    votes: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[bool, bool]:
        """Whether the loss was bad and whether a rank wants to stop; waits for the device."""
        if self.arrived:
            self.arrived.synchronize()
        _, bad, stop = self.votes.tolist()
        return bool(bad), bool(stop)


def vote(left_out: Tensor, bad: Tensor, stop: bool) -> Tensor:
    """Three flags, each raised as soon as one rank raises it: float32 [3] on the device.

    Args:
        left_out: bool [], the optimizer must change nothing.
        bad: bool [], the loss is not finite, which counts.
        stop: this rank is asked to stop.
    """
    votes = torch.stack((left_out, bad, bad.new_full((), stop))).float()
    if dist.is_initialized():
        dist.all_reduce(votes, dist.ReduceOp.MAX)
    return votes


def send(votes: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Votes on the CPU, and when they are there."""
    if not votes.is_cuda:
        return votes, None
    host, arrived = votes.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()
    return host, arrived


def means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """``train/*`` of steps that were not left out; nothing of none."""
    if not verdicts:
        return {}
    losses = torch.stack([torch.stack(list(verdict.loss)) for verdict in verdicts]).mean(0)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size > 1:
        dist.all_reduce(losses)
    names = zip(TTSLoss._fields, (losses / world_size).tolist(), strict=True)
    values = {f"train/{name}_loss": mean for name, mean in names}
    values["train/mel_mse"] = values.pop("train/mel_mse_loss")
    norms = torch.stack([verdict.norm for verdict in verdicts])
    values["train/gradient_norm"] = float(norms[norms.isfinite()].mean())
    return values

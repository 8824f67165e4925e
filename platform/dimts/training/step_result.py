"""What the device found of a step, for the CPU to read when it has long been there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from dimts.families.acoustic.model.loss import TTSLoss


@dataclass(frozen=True)
class Verdict:
    """Of one step, the same on all ranks.

    Attributes:
        step: which.
        ids: of its utterances, over all workers.
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


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether one rank at least raises the flag; each waits for all the others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def send(votes: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Votes on the CPU, and when they are there."""
    if not votes.is_cuda:
        return votes, None
    host, arrived = votes.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()
    return host, arrived


class Window:
    """Steps since the last line of the record that were not left out."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._known: list[Tensor] = []  # what a checkpoint had of them, over all ranks

    def add(self, verdict: Verdict) -> None:
        self._rows.append((torch.stack(list(verdict.loss)), verdict.norm))

    def clear(self) -> None:
        self._rows.clear()
        self._known.clear()

    def means(self) -> dict[str, float]:
        """``train/*`` over the steps and all ranks; nothing of none."""
        if not (self._rows or self._known):
            return {}
        losses, norms = self._stacked()
        names = zip(TTSLoss._fields, losses.mean(0).tolist(), strict=True)
        values = {f"train/{name}_loss": mean for name, mean in names}
        values["train/mel_mse"] = values.pop("train/mel_mse_loss")
        values["train/gradient_norm"] = float(norms[norms.isfinite()].mean())
        return values

    def state_dict(self) -> dict[str, Tensor]:
        """What a run that goes on from here needs to write the same next line."""
        if not (self._rows or self._known):
            return {}
        losses, norms = self._stacked()
        return {"losses": losses, "norms": norms}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Take over what `state_dict` gave, the same on all ranks."""
        self.clear()
        self._known += [state[name].to(device) for name in ("losses", "norms")] if state else []

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """Losses [steps, parts], each the mean over the ranks, and gradient norms [steps]."""
        if not self._rows:
            return self._known[0], self._known[1]
        losses = torch.stack([loss for loss, _ in self._rows])
        norms = torch.stack([norm for _, norm in self._rows])
        if dist.is_initialized() and (world_size := dist.get_world_size()) > 1:
            dist.all_reduce(losses)
            losses /= world_size
        if self._known:
            return torch.cat((self._known[0], losses)), torch.cat((self._known[1], norms))
        return losses, norms

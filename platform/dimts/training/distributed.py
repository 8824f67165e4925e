"""Workers of one training: who this one is, and what they tell each other beside gradients."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import distributed as dist

T = TypeVar("T")


def rank() -> int:
    """The number of this worker; 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many workers there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_rank_0(value: T, device: torch.device) -> T:
    """Rank 0's value, on every rank."""
    shared = [value]
    if world_size() > 1:
        dist.broadcast_object_list(shared, device=device if device.type == "cuda" else None)
    return shared[0]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether one rank at least raises the flag; each waits for all the others."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())

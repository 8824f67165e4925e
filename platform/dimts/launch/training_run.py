"""One worker's training, from its settings to its result."""

from __future__ import annotations

import os

import torch
from torch import distributed as dist

from dimts.core.environment import n_cores, waits_asleep
from dimts.families.registry import get_family
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import find_latest
from dimts.training.config import RunSettings
from dimts.training.machine_choices import read_choices
from dimts.training.progress import Result
from dimts.training.trainer import train


def run_training(
    settings: RunSettings, callbacks: Callbacks, device: torch.device | None = None
) -> Result:
    """Train as one worker of one or several; `torch.distributed` says which.

    Raises:
        UserError: the family's data are missing or do not fit the settings, the run was begun
            with others, or training failed.
    """
    device = device or torch.device("cpu")
    max_threads = set_threads(settings, device)
    task = get_family(settings.family).task(settings, device)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank == 0 and task.counts and find_latest(settings.run_dir) is None:
        callbacks.log(dict(task.counts), 0)
    return train(task, settings.training, settings.run_dir, callbacks, max_threads)


def set_threads(settings: RunSettings, device: torch.device) -> int:
    """Give torch the threads it was asked to use, or those that the run has found out before.

    Returns:
        How many there may be where that is still to be found out, else 0; see `Job.max_threads`.
    """
    cores = max(1, n_cores() // workers_here())
    if threads := settings.training.threads:
        torch.set_num_threads(threads)
        return 0
    if device.type != "cpu":
        return 0
    choices = read_choices(settings.run_dir)
    found_out = choices.threads if choices else 0
    if not waits_asleep():
        cores = 1
    torch.set_num_threads(min(found_out, cores) if found_out else 1)
    return 0 if found_out or cores == 1 else cores


def workers_here() -> int:
    """Workers of this run that share this machine's cores, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or (
        dist.get_world_size() if dist.is_initialized() else 1
    )

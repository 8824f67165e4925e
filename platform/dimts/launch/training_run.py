"""One worker's training, from its settings to its result."""

from __future__ import annotations

import torch
from torch import distributed as dist

from dimts.families.registry import get_family
from dimts.launch.machine import set_threads
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import find_latest
from dimts.training.config import RunSettings
from dimts.training.progress import Result
from dimts.training.trainer import train


def run_training(
    settings: RunSettings, callbacks: Callbacks, device: torch.device | None = None
) -> Result:
    """Train as one worker of one or several; `torch.distributed` says which.

    Raises:
        UserError: the family's data are missing or do not fit the settings, or training failed.
    """
    device = device or torch.device("cpu")
    max_threads = set_threads(settings, device)
    task = get_family(settings.family).task(settings, device)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank == 0 and find_latest(settings.run_dir) is None:
        if task.counts:
            callbacks.log(dict(task.counts), 0)
        for note in task.notes:
            callbacks.notify(note)
    return train(task, settings.training, settings.run_dir, callbacks, max_threads)

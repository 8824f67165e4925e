"""One worker's training, from its settings to its result; and a run in this process."""

from __future__ import annotations

import torch

from dimts.core.errors import UserError
from dimts.families.registry import get_family
from dimts.launch.console import following
from dimts.launch.local_run_folder import local_run_folder
from dimts.launch.machine import resolve_on_machine, set_threads
from dimts.launch.run_logger import RunLogger, device_of
from dimts.launch.settings import Launch
from dimts.launch.stopping import stop_on_signal
from dimts.training.callbacks import Callbacks
from dimts.training.checkpoint import find_latest
from dimts.training.config import RunSettings
from dimts.training.distributed import rank
from dimts.training.ownership import RunTakenOver
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
    if rank() == 0 and find_latest(settings.run_dir) is None:
        if task.counts:
            callbacks.log(dict(task.counts), 0)
        for note in task.notes:
            callbacks.notify(note)
    return train(task, settings.training, settings.run_dir, callbacks, max_threads)


def run_locally(launch: Launch, gpu: bool = False) -> None:
    """Train without Ray, to the end of the run, or until asked to stop.

    Raises:
        UserError: see `run_training`; a GPU is asked for and there is none.
    """
    with (
        local_run_folder(launch) as (launch, copy),
        following(launch.run_dir, launch.family.metrics),
        stop_on_signal(launch.run_dir),
    ):
        device = device_of(gpu)
        launch, note = resolve_on_machine(launch, device)
        try:
            with RunLogger(launch, copy=copy).recording(note) as logger:
                logger.finish(run_training(launch.settings, logger, device))
                logger.measure(device)
        except RunTakenOver as error:
            raise UserError(str(error)) from error

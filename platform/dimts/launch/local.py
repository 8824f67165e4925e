"""A run in this process: no Ray, one worker."""

from __future__ import annotations

from dimts.core.errors import UserError
from dimts.launch.console import following
from dimts.launch.local_run_folder import local_run_folder
from dimts.launch.machine import resolve_on_machine
from dimts.launch.run_logger import RunLogger, device_of
from dimts.launch.settings import Launch
from dimts.launch.stopping import stop_on_signal
from dimts.launch.training_run import run_training
from dimts.training.ownership import RunTakenOver


def run_locally(launch: Launch, gpu: bool = False) -> None:
    """Train to the end of the run, or until asked to stop.

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

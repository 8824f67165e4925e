"""Settings that are `auto`, resolved on the machine that trains."""

from __future__ import annotations

import os

import torch
import yaml

from dimts.core.config import flatten
from dimts.core.environment import n_cores, waits_asleep
from dimts.launch.settings import Launch
from dimts.training.config import RunSettings
from dimts.training.distributed import from_rank_0, rank, world_size
from dimts.training.machine_choices import MachineChoices, read_choices, write_choices
from dimts.training.precision import choose_amp, slow_amp


def resolve_on_machine(launch: Launch, device: torch.device) -> tuple[Launch, str]:
    """Replace `training.amp: auto` by what the run was begun with, or by what is fast here.

    Called on every rank, with the run's folder on this machine; rank 0 decides. A run keeps its
    precision on a machine that computes it slowly, as its end would be another one otherwise.

    Returns:
        The launch, with its recorded parameters and the configuration for its bundles; and what
        was taken and why, for people, empty if there is nothing to say.
    """
    choice = ("", "")
    if rank() == 0:
        amp, line = _choose(launch, device)
        choice = amp, "; ".join(filter(None, (line, unused_gpu(device))))
    amp, line = from_rank_0(choice, device)
    return with_amp(launch, amp), line


def _choose(launch: Launch, device: torch.device) -> tuple[str, str]:
    """The precision, and what there is to say of it."""
    asked, before = launch.settings.training.amp, read_choices(launch.run_dir)
    if asked == "auto" and before is None:
        choice = choose_amp(device)
        write_choices(launch.run_dir, MachineChoices(amp=choice.amp))
        return choice.amp, f"training.amp: {choice.amp}, as {choice.reason}"
    amp = before.amp if before and asked == "auto" else asked
    if before is None or before.amp != amp:
        write_choices(launch.run_dir, MachineChoices(amp=amp))
    if not (why := slow_amp(device, amp)):
        return amp, ""
    kept = "as the run was begun with" if asked == "auto" else "as it was asked for"
    return amp, (
        f"training.amp: {amp}, {kept}, is slow here: {why}; another run.name with "
        f"base.bundle={launch.run_dir} goes on from its weights in another precision"
    )


def unused_gpu(device: torch.device) -> str:
    """That a CPU trains beside a GPU, and how to use that; empty if it is not so."""
    if device.type == "cuda" or not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.get_device_name(0)} is not used: --set ray.gpu=true trains on it"


def with_amp(launch: Launch, amp: str) -> Launch:
    """The same run in a named precision."""
    settings = launch.settings
    training = settings.training.model_copy(update={"amp": amp})
    config = yaml.safe_load(settings.config_yaml)
    if isinstance(config.get("training"), dict):
        config["training"]["amp"] = amp
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    params = {**launch.params, **flatten({"training": {"amp": amp}})}
    resolved = settings.model_copy(update={"training": training, "config_yaml": text})
    return launch.model_copy(update={"settings": resolved, "params": params})


def set_threads(settings: RunSettings, device: torch.device) -> int:
    """Give torch the threads it was asked to use, or those that the run has found out before.

    Returns:
        How many there may be where that is still to be found out, else 0.
    """
    if threads := settings.training.threads:
        torch.set_num_threads(threads)
        return 0
    if device.type != "cpu":
        return 0
    # They share this machine's cores.
    n_workers = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size()
    cores = max(1, n_cores() // n_workers) if waits_asleep() else 1
    choices = read_choices(settings.run_dir)
    found_out = choices.threads if choices else 0
    torch.set_num_threads(min(found_out or 1, cores))
    return 0 if found_out or cores == 1 else cores

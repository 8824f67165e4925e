"""Start a run, or go on with it: its folder, its settings, then Ray or this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from dimts.core.config import flatten
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.launch.machine import with_amp
from dimts.launch.names import CONFIG_FILE, LOCK, RESULT
from dimts.launch.run_folder import acquire, is_last_start
from dimts.launch.run_logger import read_result
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.stopping import clear_stop
from dimts.launch.training_run import run_locally
from dimts.storage.files import write_text
from dimts.storage.paths import AnyPath
from dimts.training.machine_choices import read_choices

MAY_CHANGE = (
    "tracking.", "ray.", "run.", "judges.", "prepare.engine", "prepare.workers", "prepare.chunk",
    "training.threads", "training.log_every", "training.sample_every", "training.sample_texts",
    "training.checkpoint_every", "training.keep_checkpoints", "training.patience",
)  # fmt: skip
"""Beginnings of keys that no weight depends on."""
MAX_STEPS, AMP = "training.max_steps", "training.amp"


def start_run(launch: Launch, ray_config: RayConfig) -> dict[str, Any]:
    """Run to the end, or until asked to stop; what `run_logger.read_result` says of it.

    Raises:
        UserError: a run of this name was made with other settings, is going on, or was started
            again elsewhere; or training failed.
    """
    launch.tracking.check_client()
    busy = (
        f"run {launch.name} is being trained already, by process PID; wait for it, or give this "
        "one another run.name"
    )
    with locked(launch.run_dir / LOCK, busy):
        launch = _in_precision_of_run(launch)
        keep_settings(
            launch.place,
            launch.settings.config_yaml,
            way_out=launch.family.new_run_hint(str(launch.place)),
            is_no_matter=lambda *change: _goes_on_with(launch, *change),
        )
        acquire(launch)
        for folder in (launch.run_dir, launch.place):
            clear_stop(folder)
        (launch.place / RESULT).unlink(missing_ok=True)
        if ray_config.workers:
            from dimts.launch.ray_train import run_on_ray  # a bare run needs no Ray

            if ray_config.workers > 1:
                launch.family.prepare_inputs(launch.settings)  # or workers would wait for one
            run_on_ray(launch, ray_config)
        else:
            run_locally(launch, ray_config.gpu)
        if not is_last_start(launch):
            raise UserError(f"{launch.place}: was started again elsewhere, and goes on there")
        return read_result(launch.place)


def _in_precision_of_run(launch: Launch) -> Launch:
    """`training.amp: auto` is what a run was begun with where its settings name it.

    Raises:
        UserError: what the run has taken for `auto` cannot be read.
    """
    read_choices(launch.run_dir)  # here it ends the command, in a worker it would be tried again
    before = (_settings_in(launch.place) or {}).get(AMP, "auto")
    if before == "auto" or launch.settings.training.amp != "auto":
        return launch
    return with_amp(launch, before)


def _goes_on_with(launch: Launch, key: str, before: Any, now: Any) -> bool:
    """Whether a run goes on with another value of a setting: more steps, or the precision that
    `auto` took by its name."""
    if key == MAX_STEPS:
        return bool(now > before)
    choices = read_choices(launch.run_dir) if (key, before) == (AMP, "auto") else None
    return choices is not None and choices.amp == now


def keep_settings(
    folder: AnyPath,
    config_yaml: str,
    may_change: tuple[str, ...] = (),
    place: AnyPath | None = None,
    way_out: str = "give this one another run.name",
    is_no_matter: Callable[[str, Any, Any], bool] = lambda *change: False,
) -> None:
    """Store the resolved settings with a run, or compare them with those it was begun with.

    Args:
        folder, config_yaml: of the run, and its settings.
        may_change: beginnings of keys that are no matter, beside `MAY_CHANGE`.
        place: of the run, where that is not `folder`.
        way_out: what to do instead, for the error.
        is_no_matter: asked of a key, its value before and now.

    Raises:
        UserError: one that matters has changed.
    """
    now = flatten(yaml.safe_load(config_yaml))
    before = _settings_in(folder) or now
    for key in sorted(before.keys() | now.keys()):
        change = key, before.get(key), now.get(key)
        if key.startswith((*MAY_CHANGE, *may_change)) or change[1] == change[2]:
            continue
        if not is_no_matter(*change):
            raise UserError(
                f"run {folder.name} was begun with {key}={change[1]}, not {change[2]}; {way_out}, "
                f"or remove {place or folder} to begin anew"
            )
    write_text(folder / CONFIG_FILE, config_yaml)


def _settings_in(folder: AnyPath) -> dict[str, Any] | None:
    """Those that a run was begun with, flat; None if it was not."""
    try:
        return flatten(yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None

"""Start a run, or go on with it: its folder, its settings, then Ray or this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dimts.core.config import flatten
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.launch.machine import with_amp
from dimts.launch.names import CONFIG_FILE, LOCK
from dimts.launch.relay import fetch_result, new_start, send_settings
from dimts.launch.run_logger import RESULT, read_result
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.stopping import clear_stop
from dimts.storage.paths import AnyPath, local_copy
from dimts.training.machine_choices import read_choices

MAY_CHANGE = (
    "tracking.", "ray.", "run.", "judges.", "prepare.engine", "prepare.workers", "prepare.chunk",
    "training.threads", "training.log_every", "training.sample_every", "training.sample_texts",
    "training.checkpoint_every", "training.keep_checkpoints", "training.patience",
)  # fmt: skip
"""Beginnings of keys that no weight depends on."""
MAX_STEPS, AMP = "training.max_steps", "training.amp"


def start_run(launch: Launch, ray_config: RayConfig) -> dict[str, Any]:
    """Run to the end, or until asked to stop; what `recorder.read_result` says of it.

    Raises:
        UserError: a run of this name was made with other settings, or is going on; or training
            failed.
    """
    launch.tracking.check_client()
    launch = new_start(launch)
    launch.run_dir.mkdir(parents=True, exist_ok=True)

    def busy(pid: str) -> str:
        return (
            f"run {launch.name} is being trained already, by process {pid}; wait for it, or give "
            "this one another run.name"
        )

    with locked(launch.run_dir / LOCK, busy):
        local_copy(launch.place / CONFIG_FILE, launch.run_dir / CONFIG_FILE)
        launch = _in_precision_of_run(launch)
        keep_settings(
            launch.run_dir,
            launch.settings.config_yaml,
            place=launch.place,
            way_out=launch.family.new_run_hint(str(launch.place)),
            is_no_matter=lambda *change: _goes_on_with(launch.run_dir, *change),
        )
        clear_stop(launch.run_dir)
        (launch.run_dir / RESULT).unlink(missing_ok=True)
        send_settings(launch)
        if ray_config.workers:
            from dimts.launch.ray_train import run_on_ray  # a bare run needs no Ray

            if ray_config.workers > 1:
                launch.family.prepare_inputs(launch.settings)  # or workers would wait for one
            run_on_ray(launch, ray_config)
        else:
            from dimts.launch.local import run_locally

            run_locally(launch, ray_config.gpu)
        fetch_result(launch)
        return read_result(launch.run_dir)


def _in_precision_of_run(launch: Launch) -> Launch:
    """`training.amp: auto` is what a run was begun with where its settings name it.

    Raises:
        UserError: what the run has taken for `auto` cannot be read.
    """
    read_choices(launch.run_dir)  # here it ends the command, in a worker it would be tried again
    file = launch.run_dir / CONFIG_FILE
    if launch.settings.training.amp != "auto" or not file.exists():
        return launch
    before = flatten(yaml.safe_load(file.read_text(encoding="utf-8"))).get(AMP, "auto")
    return launch if before == "auto" else with_amp(launch, before)


def _goes_on_with(run_dir: Path, key: str, before: Any, now: Any) -> bool:
    """Whether a run goes on with another value of a setting: more steps, or the precision that
    `auto` took by its name."""
    if key == MAX_STEPS:
        return now > before
    choices = read_choices(run_dir) if (key, before) == (AMP, "auto") else None
    return choices is not None and choices.amp == now


def keep_settings(
    folder: Path,
    config_yaml: str,
    may_change: tuple[str, ...] = (),
    place: AnyPath | None = None,
    way_out: str = "give this one another run.name",
    is_no_matter: Callable[[str, Any, Any], bool] = lambda *change: False,
) -> None:
    """Store the resolved settings with a run, or compare them with those it was begun with.

    Args:
        folder: of the run.
        config_yaml: its settings.
        may_change: beginnings of keys that are no matter, beside `MAY_CHANGE`.
        place: of the run, where that is not `folder`.
        way_out: what to do instead, for the error.
        is_no_matter: asked of a key, its value before and now.

    Raises:
        UserError: one that matters has changed.
    """
    file = folder / CONFIG_FILE
    if file.exists():
        before = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
        now = flatten(yaml.safe_load(config_yaml))
        for key in _changes(before, now, (*MAY_CHANGE, *may_change)):
            if not is_no_matter(key, before.get(key), now.get(key)):
                raise UserError(
                    f"run {folder.name} was begun with {key}={before.get(key)}, not "
                    f"{now.get(key)}; {way_out}, or remove {place or folder} to begin anew"
                )
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(config_yaml, encoding="utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: tuple[str, ...]
) -> list[str]:
    """Keys that have another value, in order."""
    return [
        key
        for key in sorted(before.keys() | now.keys())
        if not key.startswith(may_change) and before.get(key) != now.get(key)
    ]

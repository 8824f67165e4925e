"""What an earlier sweep found, as settings that another sweep tries first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna import Study

from dimts.core.errors import ConfigError, UserError
from dimts.launch.settings import Launch
from dimts.storage.files import local_copy
from dimts.storage.paths import AnyPath
from dimts.tuning.config import SweepConfig
from dimts.tuning.report import best_first
from dimts.tuning.space import check_point
from dimts.tuning.study import KNOWN_GOOD, STUDY_FILE, open_storage, settings_of

N_BEST = 3
KEY = "sweep.known_good_from"


def known_good(
    sweep: SweepConfig, folder: Path, launch: Callable[[int, Mapping[str, Any]], Launch]
) -> tuple[list[dict[str, Any]], str]:
    """The best settings of the sweep that `sweep.known_good_from` names.

    They are read when a sweep is begun, and kept in its study: the other sweep may be gone, or
    have gone on, when this one is started again.

    Args:
        sweep, folder: of this sweep.
        launch: (number, values) -> the run of one of its trials.

    Returns:
        Settings, best first; a line on which trials they are of, unless they were read before.

    Raises:
        UserError: there is no such sweep, or nothing of it can be used.
    """
    if (place := sweep.known_good_from) is None:
        return [], ""
    own = folder / STUDY_FILE
    study = _load(own, folder) if own.exists() else None
    if study and KNOWN_GOOD in study.user_attrs:
        return study.user_attrs[KNOWN_GOOD], ""
    points: dict[int, dict[str, Any]] = {}
    unfit: list[str] = []
    for number, values in _finished(place):
        try:
            check_point(sweep.space, values)
            launch(0, values)
            points[number] = values
        except (ValueError, ConfigError) as error:
            unfit.append(f"trial {number}, for one ({error})")
        if len(points) == (sweep.known_good_best or N_BEST):
            break
    left_out = f"{len(unfit)} do not fit this space: {unfit[0]}" if unfit else ""
    if not points:
        raise UserError(
            f"{KEY}: {place} has no trial that can be tried here, "
            f"{left_out or 'as none ran to its end'}; leave {KEY} out"
        )
    taken = f"known good from {place}: trials {', '.join(map(str, points))}"
    return list(points.values()), f"{taken}; {left_out}" if left_out else taken


def _finished(place: AnyPath) -> list[tuple[int, dict[str, Any]]]:
    """Number and settings of each trial of a sweep that ran to its end, best first."""
    with TemporaryDirectory() as folder:
        file = local_copy(place / STUDY_FILE, Path(folder, STUDY_FILE))
        if not file.exists():
            raise UserError(f"{KEY}: {place} is no sweep's folder: it has no {STUDY_FILE}")
        study = _load(file, place)
        trials = best_first(study) if study else []
        return [(t.number, settings_of(t)) for t in trials]


def _load(file: Path, place: AnyPath) -> Study | None:
    """The study in a file; None if it was made and the study was not."""
    try:
        storage = open_storage(file)
        names = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=names[0], storage=storage) if names else None
    except Exception as error:  # Optuna's, SQLAlchemy's, SQLite's
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: {STUDY_FILE} cannot be read: {reason}") from error

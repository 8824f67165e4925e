"""What can be known before the first trial: that every setting works, and what all trials share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from optuna import Study

from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.flat_start import ensure_durations
from dimts.families.acoustic.freezing import frozen_rows
from dimts.launch.settings import Launch
from dimts.storage.paths import Folder
from dimts.training.run import initial_model
from dimts.tuning.config import FORGETTING, SweepConfig
from dimts.tuning.space import examples
from dimts.tuning.trial import Measured, base_mcd

BASE_MCD = "base_mcd"
GROUND = "ground"
"""What the study's losses were reached with, see `keep_ground`."""


class Ground(NamedTuple):
    """What trials have in common.

    Attributes:
        launch: one that stands for all.
        data: what they learn from.
    """

    launch: Launch
    data: Data


def check(sweep: SweepConfig, launch: Callable[[int, Mapping[str, Any]], Launch]) -> Ground:
    """Check every setting of the space; nothing is written, so that mistakes leave no trace.

    Raises:
        UserError: a setting does not fit the voice or the features; no features are there.
    """
    points = [*sweep.known_good, *examples(sweep.space)]
    launches = [launch(0, point) for point in points]
    data = open_data(launches[0].settings)
    _check_vocabulary(launches, data)
    if FORGETTING in sweep.measured:
        if launches[0].settings.base is None:
            raise UserError(f"sweep.objectives: {FORGETTING} needs a base; see start/finetune.yaml")
        if not any(len(features.split("val")) for features in data.base_features):
            raise UserError(
                f"sweep.objectives: {FORGETTING} cannot be measured: base.features has no "
                "validation sentences; name the base's prepared features, or take another objective"
            )
    return Ground(launches[0], data)


def prepare(sweep: SweepConfig, ground: Ground, study: Study, place: Folder) -> Measured:
    """Compute what trials would each compute.

    Args:
        sweep: its settings.
        ground: of its trials.
        study: of the sweep, which keeps what was computed.
        place: of the sweep, for errors.

    Returns:
        What is measured of each trial, with what it is compared with.

    Raises:
        UserError: see `keep_ground`.
    """
    keep_ground(ground.data, study, place, sweep.way_out(place))
    settings, data = ground.launch.settings, ground.data
    if settings.training.aligner.fixed_share > 0:
        ensure_durations(settings, data)  # by one process, before several would
    if FORGETTING not in sweep.measured:
        return Measured(sweep.measured)
    if BASE_MCD not in study.user_attrs:
        model = initial_model(settings, data)
        study.set_user_attr(BASE_MCD, base_mcd(ground.launch, data, model))
    return Measured(sweep.measured, study.user_attrs[BASE_MCD])


def keep_ground(data: Data, study: Study, place: Folder, way_out: str) -> None:
    """Note what the trials learn from and are compared on, or compare it with what was noted.

    Args:
        data: what they learn from.
        study: of the sweep, which keeps the note.
        place: of the sweep, for the error.
        way_out: what to do instead, for the error.

    Raises:
        UserError: it is not what the sweep was begun with.
    """
    ground = {
        "set of features": "+".join(f.manifest.fingerprint for f in data.features),
        "set of the base's features": "+".join(f.manifest.fingerprint for f in data.base_features),
        "vocabulary": data.tokenizer.fingerprint,
        "base": data.base.sha256 if data.base else "",
    }
    before = study.user_attrs.get(GROUND)
    if before is None:
        study.set_user_attr(GROUND, ground)
        return
    for what, now in ground.items():
        if before[what] != now:
            raise UserError(
                f"{place}: was begun with another {what} than there is now, so trials cannot be "
                f"compared; {way_out}, or remove {place} to begin anew"
            )


def _check_vocabulary(launches: list[Launch], data: Data) -> None:
    for launch in launches:
        try:
            frozen_rows(launch.settings.model.freeze_until_index, data.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"sweep.space: {error}") from error

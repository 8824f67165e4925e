"""What can be known before the first trial: that every setting works, and what all trials share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study

from dimts.errors import ConfigError, UserError
from dimts.launch.settings import Launch
from dimts.training.data import Data, fixed_durations, open_data
from dimts.training.freezing import frozen_rows
from dimts.training.run import initial_model
from dimts.tuning.config import FORGETTING, SweepConfig
from dimts.tuning.space import examples
from dimts.tuning.trial import Measured, base_mcd

BASE_MCD = "base_mcd"


def prepare(
    sweep: SweepConfig, launch: Callable[[int, Mapping[str, Any]], Launch], study: Study
) -> Measured:
    """Check every setting of the space, and compute what trials would each compute.

    Returns:
        What is measured of each trial, with what it is compared with.

    Raises:
        UserError: a setting does not fit the voice or the features; no features are there.
    """
    points = [*sweep.known_good, *examples(sweep.space)]
    launches = [launch(0, point) for point in points]
    settings = launches[0].settings
    data = open_data(settings)
    _check_vocabulary(launches, data)
    if settings.training.aligner.fixed_share > 0:
        fixed_durations(settings, data)  # by one process, before several would
    if FORGETTING not in sweep.measured:
        return Measured(sweep.measured)
    if BASE_MCD not in study.user_attrs:
        if settings.base is None:
            raise UserError(f"sweep.objectives: {FORGETTING} needs a base; see start/finetune.yaml")
        model = initial_model(settings, data)
        study.set_user_attr(BASE_MCD, base_mcd(launches[0], data, model))
    return Measured(sweep.measured, study.user_attrs[BASE_MCD])


def _check_vocabulary(launches: list[Launch], data: Data) -> None:
    for launch in launches:
        try:
            frozen_rows(launch.settings.model.freeze_until_index, data.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"sweep.space: {error}") from error

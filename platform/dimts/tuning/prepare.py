"""What can be known before the first trial: that every setting works, and what all trials share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Study

from dimts.core.errors import UserError
from dimts.families.protocol import SharedInputs
from dimts.launch.settings import Launch
from dimts.storage.paths import AnyPath
from dimts.tuning.config import SweepConfig, measured
from dimts.tuning.space import examples
from dimts.tuning.trial import Measured

SHARED_INPUTS = "ground"
"""Attribute of a study: what its losses were reached with."""
SHARED_VALUES = "shared"
"""Attribute of a study: what `SharedInputs.prepare` returned."""


def check(sweep: SweepConfig, launch: Callable[[int, Mapping[str, Any]], Launch]) -> SharedInputs:
    """Check every setting of the space; nothing is written, so that mistakes leave no trace.

    Raises:
        UserError: a setting does not fit the model or its data; no data are there.
    """
    launches = [launch(0, point) for point in (*sweep.known_good, *examples(sweep.space))]
    family = launches[0].family
    return family.shared_inputs([one.settings for one in launches], measured(sweep, family.metrics))


def prepare(
    sweep: SweepConfig, names: tuple[str, ...], inputs: SharedInputs, study: Study, place: AnyPath
) -> Measured:
    """Compute what trials would each compute; the study keeps it, and what the trials learn from.

    Args:
        sweep: its settings.
        names: of what is measured of a trial.
        inputs: of its trials.
        study: of the sweep.
        place: of the sweep, for the error.

    Returns:
        What is measured of each trial, with what it is compared with.

    Raises:
        UserError: the inputs are not those that the sweep was begun with.
    """
    before = study.user_attrs.get(SHARED_INPUTS)
    if before is None:
        study.set_user_attr(SHARED_INPUTS, dict(inputs.facts))
    elif other := [what for what, now in inputs.facts.items() if before[what] != now]:
        raise UserError(
            f"{place}: was begun with another {other[0]} than there is now, so trials cannot be "
            f"compared; {sweep.way_out(place)}, or remove {place} to begin anew"
        )
    if SHARED_VALUES not in study.user_attrs:
        study.set_user_attr(SHARED_VALUES, inputs.prepare())
    return Measured(names, study.user_attrs[SHARED_VALUES])

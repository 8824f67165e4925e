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
"""Attribute of a study: what its losses were reached with, see `check_same_inputs`."""
SHARED_VALUES = "shared"
"""Attribute of a study: what `SharedInputs.prepare` returned."""


def check(sweep: SweepConfig, launch: Callable[[int, Mapping[str, Any]], Launch]) -> SharedInputs:
    """Check every setting of the space; nothing is written, so that mistakes leave no trace.

    Raises:
        UserError: a setting does not fit the model or its data; no data are there.
    """
    points = [*sweep.known_good, *examples(sweep.space)]
    launches = [launch(0, point) for point in points]
    family = launches[0].family
    return family.shared_inputs([one.settings for one in launches], measured(sweep, family.metrics))


def prepare(
    sweep: SweepConfig, names: tuple[str, ...], inputs: SharedInputs, study: Study, place: AnyPath
) -> Measured:
    """Compute what trials would each compute.

    Args:
        sweep: its settings.
        names: of what is measured of a trial.
        inputs: of its trials.
        study: of the sweep, which keeps what was computed.
        place: of the sweep, for errors.

    Returns:
        What is measured of each trial, with what it is compared with.

    Raises:
        UserError: see `check_same_inputs`.
    """
    check_same_inputs(inputs.facts, study, place, sweep.way_out(place))
    if SHARED_VALUES not in study.user_attrs:
        study.set_user_attr(SHARED_VALUES, inputs.prepare())
    return Measured(names, study.user_attrs[SHARED_VALUES])


def check_same_inputs(facts: Mapping[str, str], study: Study, place: AnyPath, way_out: str) -> None:
    """Note what the trials learn from and are compared on, or compare it with what was noted.

    Args:
        facts: what it is -> its fingerprint.
        study: of the sweep, which keeps the note.
        place: of the sweep, for the error.
        way_out: what to do instead, for the error.

    Raises:
        UserError: it is not what the sweep was begun with.
    """
    before = study.user_attrs.get(SHARED_INPUTS)
    if before is None:
        study.set_user_attr(SHARED_INPUTS, dict(facts))
        return
    for what, now in facts.items():
        if before[what] != now:
            raise UserError(
                f"{place}: was begun with another {what} than there is now, so trials cannot be "
                f"compared; {way_out}, or remove {place} to begin anew"
            )

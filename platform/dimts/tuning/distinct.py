"""Which settings of a space differ, and which of them no trial has had yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any

from optuna.trial import FrozenTrial

from dimts.tuning.config import SweepConfig
from dimts.tuning.space import Parameter, Space


def identity(space: Space, values: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The same for two settings if a trial with the one would repeat a trial with the other.

    Values may be raw or as Optuna keeps them.
    """
    return frozenset((key, space[key].identity(value)) for key, value in values.items())


def identities(space: Space, trials: Sequence[FrozenTrial]) -> set[frozenset[tuple[str, Any]]]:
    """Of the settings of trials."""
    return {identity(space, trial.params) for trial in trials}


def all_settings(
    space: Space, rng: Random, first: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Every setting of a space once; without end where a parameter is continuous.

    They begin with `first`, and the later a parameter stands in the space the sooner it changes,
    so what comes soon is like `first` in most of its parameters.

    Args:
        space: what there is to set.
        rng: draws from continuous ranges, and where to begin with what `first` does not have.
        first: raw values of parameters.
    """
    settings: Iterator[dict[str, Any]] = iter([{}])
    for key, parameter in space.items():
        settings = _each_with(settings, key, parameter, rng, (first or {}).get(key))
    return settings


def _each_with(
    settings: Iterator[dict[str, Any]], key: str, parameter: Parameter, rng: Random, first: Any
) -> Iterator[dict[str, Any]]:
    for setting in settings:
        if parameter.is_used(setting):
            yield from ({**setting, key: value} for value in parameter.values(rng, first))
        else:
            yield setting


def count_settings(space: Space, most: int) -> int:
    """How many settings a space has, counted up to `most`."""
    return sum(1 for _ in islice(all_settings(space, Random(0)), most))


def exhausted_line(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> str:
    """That the space has fewer settings than the sweep was to have trials; else it is empty."""
    n = count_settings(sweep.space, sweep.trials)
    if n == sweep.trials:
        return ""
    how, which = "all were tried", "them"
    if len(identities(sweep.space, trials)) < n:
        how, which = "each of which is tried once", "some of them"
    return (
        f"the space has {n} distinct setting{'' if n == 1 else 's'}, {how}; "
        f"sweep.trials={sweep.trials} would train {which} again"
    )

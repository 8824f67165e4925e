"""Which settings of a space differ, and which of them no trial has had yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any

from optuna.trial import FrozenTrial

from dimts.tuning.config import SweepConfig
from dimts.tuning.space import Space


def identity(space: Space, values: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The same for two settings if a trial with the one would repeat a trial with the other.

    Args:
        space: of both.
        values: of the parameters, raw or as Optuna keeps them.
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
    keys, near = list(space), first or {}

    def further(n: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if n == len(keys):
            yield values
            return
        key, parameter = keys[n], space[keys[n]]
        if not parameter.is_used(values):
            yield from further(n + 1, values)
            return
        for value in parameter.values(rng, near.get(key)):
            yield from further(n + 1, {**values, key: value})

    return further(0, {})


def count_settings(space: Space, most: int) -> int:
    """How many settings a space has, counted up to `most`."""
    return sum(1 for _ in islice(all_settings(space, Random(0)), most))


def untried(
    space: Space, trials: Sequence[FrozenTrial], rng: Random, first: Mapping[str, Any]
) -> dict[str, Any]:
    """The setting that no trial has had and that is next to `first`; it must exist."""
    tried = identities(space, trials)
    settings = all_settings(space, rng, first)
    return next(setting for setting in settings if identity(space, setting) not in tried)


def exhausted_line(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> str:
    """That the space has fewer settings than the sweep was to have trials; else it is empty.

    Args:
        sweep: its settings.
        trials: that were begun.
    """
    n = count_settings(sweep.space, sweep.trials)
    if n == sweep.trials:
        return ""
    begun = len(identities(sweep.space, trials))
    settings = f"{n} distinct setting{'' if n == 1 else 's'}"
    if begun < n:
        return (
            f"the space has {settings}, each of which is tried once; sweep.trials={sweep.trials} "
            "would train some of them again"
        )
    return (
        f"the space has {settings}, all were tried; sweep.trials={sweep.trials} would train them "
        "again"
    )

"""What is searched: parameters of a space, written in YAML, suggested by Optuna."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dimts.core.config import Config

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

Scalar = str | int | float | bool | None


class _Parameter(Config):
    """What all kinds have.

    Attributes:
        when: another parameter's key and the value or values of it with which this one is used.
    """

    when: dict[str, Any] = Field(default={})

    def is_used(self, values: Mapping[str, Any]) -> bool:
        """Whether it is part of a setting that has these values of earlier parameters."""
        return all(
            key in values and values[key] in _listed(wanted) for key, wanted in self.when.items()
        )

    def stored(self, value: Any) -> Any:
        """The value as Optuna keeps it."""
        return value

    def identity(self, value: Any) -> Any:
        """The same for two values if they are one and the same setting."""
        return value


class _Range(_Parameter):
    low: Any
    high: Any
    log: bool = False
    step: Any = None

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the range from {self.low} to {self.high} is empty; raise high")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together; leave one of them out")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low}) must be above 0 with log")
        if reason := self.refuses(self.high):
            raise ValueError(f"high: {reason}")
        return self

    def bounds(self) -> list[Any]:
        """Values that stand for all: if these can be set, those between can."""
        return [self.low, self.high]

    def refuses(self, value: Any) -> str | None:
        """Why a value cannot be tried, or None if it can."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number, not {value!r}"
        if not self.low <= value <= self.high:
            return f"{value} is not between {self.low} and {self.high}"
        if self.step is not None:
            steps = (value - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9:
                return f"{value} is not {self.low} and a multiple of {self.step}"
        return None


class FloatRange(_Range):
    """A real number from `low` to `high`, in steps or on a logarithmic scale if asked for."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(None, gt=0)

    def bounds(self) -> list[Any]:
        """Its ends, and a value between them: a setting of whole numbers takes 0.0 and 40.0."""
        between = self.low + (self.step or 0.382 * (self.high - self.low))
        return [*super().bounds(), between]

    def suggest(self, trial: Trial, key: str) -> float:
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def identity(self, value: float) -> float:
        """Which step it is, as multiples of a step are not exact; without steps the value."""
        return float(value) if self.step is None else round((value - self.low) / self.step)

    def grid(self, most: int) -> Sequence[float]:
        """Its steps, or as many values as are asked for."""
        step = self.step or (self.high - self.low) / most
        n = min(most, round((self.high - self.low) / step) + 1)
        return [min(self.low + i * step, self.high) for i in range(n)]


class IntRange(_Range):
    """A whole number from `low` to `high`."""

    type: Literal["int"]
    low: int
    high: int
    step: int | None = Field(None, ge=1)

    def suggest(self, trial: Trial, key: str) -> int:
        return trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log)

    def grid(self, most: int) -> Sequence[int]:
        return range(self.low, self.high + 1, self.step or 1)[:most]

    def refuses(self, value: Any) -> str | None:
        if isinstance(value, float):
            return f"must be a whole number, not {value}"
        return super().refuses(value)


class Categorical(_Parameter):
    """One of some values of any kind; Optuna knows those that are no scalars by their JSON."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        stored = [self.stored(choice) for choice in self.choices]
        if twice := [c for n, c in enumerate(stored) if c in stored[:n]]:
            raise ValueError(f"the choice {twice[0]!r} is there twice")
        return self

    def suggest(self, trial: Trial, key: str) -> Any:
        by_stored = {self.stored(choice): choice for choice in self.choices}
        return by_stored[trial.suggest_categorical(key, list(by_stored))]

    def identity(self, value: Any) -> Scalar:
        return self.stored(value)  # lists and mappings cannot be members of a set

    def grid(self, most: int) -> Sequence[Any]:
        return self.choices

    def bounds(self) -> list[Any]:
        return list(self.choices)

    def refuses(self, value: Any) -> str | None:
        return None if value in self.choices else f"{value!r} is none of {list(self.choices)}"

    def stored(self, value: Any) -> Scalar:
        return value if isinstance(value, Scalar) else json.dumps(value, ensure_ascii=False)


Parameter = Annotated[FloatRange | IntRange | Categorical, Field(discriminator="type")]
Space = dict[str, Parameter]
"""Key of a setting -> what is tried for it; later ones may depend on earlier ones."""


def suggest(
    space: Space, trial: Trial, before: Callable[[str], None] = lambda key: None
) -> dict[str, Any]:
    """The settings of a trial; parameters that its other values leave without effect are out.

    `before` is called with the key of each parameter before it is drawn.
    """
    values: dict[str, Any] = {}
    for key, parameter in space.items():
        if parameter.is_used(values):
            before(key)
            values[key] = parameter.suggest(trial, key)
    return values


def stored(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of parameters as Optuna keeps them."""
    return {key: space[key].stored(value) for key, value in values.items()}


def identity(space: Space, values: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The same for two settings if a trial with the one would repeat a trial with the other.

    Values may be raw or as Optuna keeps them.
    """
    return frozenset((key, space[key].identity(value)) for key, value in values.items())


def identities(space: Space, trials: Sequence[FrozenTrial]) -> set[frozenset[tuple[str, Any]]]:
    """Of the settings of trials."""
    return {identity(space, trial.params) for trial in trials}


def count_settings(space: Space, most: int) -> int:
    """How many settings a space has, counted up to `most`."""
    settings: list[dict[str, Any]] = [{}]
    for key, parameter in space.items():
        longer = (
            setting | own
            for setting in settings
            for own in (
                [{key: value} for value in parameter.grid(most)]
                if parameter.is_used(setting)
                else [{}]
            )
        )
        settings = list(islice(longer, most))
    return len(settings)


def check_conditions(space: Space) -> None:
    """Raise a `ValueError` for a condition that is on no earlier parameter or cannot come true."""
    earlier: dict[str, Any] = {}
    for key, parameter in space.items():
        for other, wanted in parameter.when.items():
            if other not in earlier:
                raise ValueError(f"{key}.when: {other} must be a parameter that stands before it")
            if not _listed(wanted):
                raise ValueError(f"{key}.when.{other}: holds no value; a value [] is written [[]]")
            for value in _listed(wanted):
                if reason := earlier[other].refuses(value):
                    raise ValueError(f"{key}.when.{other}: {reason}")
        earlier[key] = parameter


def check_point(space: Space, point: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a value that is not in the space, or not used beside the others."""
    for key, value in point.items():
        if key not in space:
            raise ValueError(f"{key} is not in the space; allowed here: {', '.join(space)}")
        if reason := space[key].refuses(value):
            raise ValueError(f"{key}: {reason}")
        if not space[key].is_used(point):
            raise ValueError(f"{key} is not used beside the other values; see its `when`")


def examples(space: Space) -> Iterator[dict[str, Any]]:
    """Settings that stand for all: each parameter at its bounds, beside what it depends on."""
    first: dict[str, Any] = {}
    for key, parameter in space.items():
        needed = _needed(space, key)
        beside = {k: v for k, v in first.items() if space[k].is_used({**first, **needed})} | needed
        for value in parameter.bounds():
            yield beside | {key: value}
        if parameter.is_used(first):
            first[key] = parameter.bounds()[0]


def _needed(space: Space, key: str) -> dict[str, Any]:
    """Values of others beside which a parameter is used, and those beside which they are."""
    own = {other: _listed(wanted)[0] for other, wanted in space[key].when.items()}
    theirs: dict[str, Any] = {}
    for other in own:
        theirs |= _needed(space, other)
    return theirs | own


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

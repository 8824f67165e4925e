"""Settings of a search space by themselves: drawn, checked, and counted."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest
from examples import one_in
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from tuning_fixtures import one_of

from dimts.core.config import build_config
from dimts.core.errors import ConfigError
from dimts.tuning.config import SweepConfig
from dimts.tuning.space import (
    Space,
    check_point,
    count_settings,
    examples,
    suggest,
)

RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}


def space_of(**parameters: Any) -> Space:
    """A space as the sweep reads it."""
    return build_config(SweepConfig, {"name": "t", "space": parameters}).space


def drawn(space: Space, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a trial, and what Optuna knows of them."""
    study = optuna.create_study(sampler=RandomSampler(seed))
    trial = study.ask()
    return suggest(space, trial, lambda key: None), trial.params


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@how(max_examples=one_in(8))
@given(choices=st.lists(values, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_choice_of_any_kind_comes_back_as_it_was_written(choices: list[Any], seed: int) -> None:
    try:
        space = space_of(a=one_of(*choices))
    except ConfigError as error:
        assert "is there twice" in str(error)
        return
    drawn_value, params = drawn(space, seed)
    assert json.dumps(drawn_value["a"]) in [json.dumps(choice) for choice in choices]
    assert params == {"a": space["a"].stored(drawn_value["a"])}


numbers = st.floats(1e-6, 1e6)


@how(max_examples=one_in(8), suppress_health_check=[HealthCheck.filter_too_much])
@given(low=numbers, high=numbers, log=st.booleans(), seed=st.integers(0, 99))
def test_drawn_number_lies_in_its_range(low: float, high: float, log: bool, seed: int) -> None:
    if low >= high:
        with pytest.raises(ConfigError, match="is empty"):
            space_of(a={"type": "float", "low": low, "high": high, "log": log})
        return
    space = space_of(a={"type": "float", "low": low, "high": high, "log": log})
    settings, _ = drawn(space, seed)
    check_point(space, settings)
    for end in examples(space):
        check_point(space, end)


def test_parameter_is_drawn_only_beside_the_values_it_depends_on() -> None:
    space = space_of(
        kind=one_of("a", "b", "c"),
        rate={**RATE, "when": {"kind": ["a", "b"]}},
        depth={"type": "int", "low": 1, "high": 4, "when": {"kind": "b"}},
        width={"type": "int", "low": 2, "high": 8, "step": 2, "when": {"depth": [1, 2, 3, 4]}},
    )
    expected = {
        "a": {"kind", "rate"},
        "b": {"kind", "rate", "depth", "width"},
        "c": {"kind"},
    }
    seen = set()
    for seed in range(30):
        settings, params = drawn(space, seed)
        assert settings == params
        assert set(settings) == expected[settings["kind"]]
        check_point(space, settings)
        seen.add(settings["kind"])
    assert seen == expected.keys()


def test_examples_hold_every_end_beside_what_it_depends_on() -> None:
    space = space_of(
        kind=one_of("a", "b"),
        depth={"type": "int", "low": 1, "high": 4, "when": {"kind": "b"}},
        width={"type": "int", "low": 2, "high": 8, "when": {"depth": 4}},
        blocks=one_of([], [0]),
    )
    found = list(examples(space))
    for point in found:
        check_point(space, point)
    assert {"kind": "b", "depth": 4, "width": 8} in found
    assert {"kind": "a", "blocks": [0]} in found
    for key, parameter in space.items():
        tried = [point[key] for point in found if key in point]
        assert all(end in tried for end in parameter.bounds())


# All settings of a space


steps = st.integers(1, 3)
finite = st.one_of(
    st.builds(lambda n: one_of(*range(n)), st.integers(1, 4)),
    st.builds(
        lambda low, n, step: {"type": "int", "low": low, "high": low + n * step, "step": step},
        st.integers(-3, 3), steps, steps,
    ),
    st.builds(
        lambda low, n: {"type": "float", "low": low, "high": low + n * 0.25, "step": 0.25},
        st.integers(-3, 3), steps,
    ),
    st.builds(lambda n: {"type": "int", "low": 1, "high": 1 + n, "log": True}, steps),
)  # fmt: skip


@how(deadline=None, max_examples=60)
@given(parameters=st.lists(finite, min_size=1, max_size=3))
def test_settings_of_a_finite_space_are_counted(parameters: list[dict[str, Any]]) -> None:
    """One more parameter is used beside some values of the first alone."""
    space = space_of(**{f"p{n}": parameter for n, parameter in enumerate(parameters)})
    beside = space["p0"].bounds()[0]
    grids = [parameter.grid(99) for parameter in space.values()]
    for (key, parameter), grid in zip(space.items(), grids, strict=True):
        assert not [value for value in grid if parameter.refuses(value)]
        settings = {tuple(drawn({key: parameter}, seed)[0].values()) for seed in range(60)}
        assert settings <= {(value,) for value in grid}
    space = space_of(
        **{f"p{n}": parameter for n, parameter in enumerate(parameters)},
        more=one_of([], [0], None, when={"p0": [beside]}),
    )
    sizes = [len(set(grid)) for grid in grids]
    n = math.prod(sizes) + 2 * math.prod(sizes[1:])
    assert count_settings(space, 999) == n
    assert count_settings(space, n - 1) == n - 1


def test_continuous_parameter_has_settings_without_end() -> None:
    space = space_of(kind=one_of("a", "b"), rate={**RATE, "when": {"kind": "b"}})
    assert len(set(space["rate"].grid(50))) == 50
    assert count_settings(space, 1000) == 1000

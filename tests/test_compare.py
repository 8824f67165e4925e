"""Two voices on the same sentences: the difference, its interval, and what is held against one."""

from __future__ import annotations

import numpy as np
import pytest

from dimts.evaluation.compare import (
    Difference,
    Limits,
    Quality,
    bootstrap_interval,
    mcd_difference,
    objections,
)
from dimts.families.acoustic.held_out import UtteranceMetrics

GOOD = Quality(mcd=2.0, length_ratio=1.05, forgetting=0.2)
BETTER = Difference(-0.1, -0.2, 0.0, 20)


def figures(mcd: list[float]) -> list[UtteranceMetrics]:
    return [UtteranceMetrics(str(i), x, 0, 0, 0, 100, 100, 0, 10) for i, x in enumerate(mcd)]


def test_what_sentences_have_in_common_is_no_part_of_the_difference() -> None:
    """Sentences differ by decibels, the voices always by the same tenth: so the interval is it."""
    hard = np.random.default_rng(0).uniform(1, 9, 30)
    difference = mcd_difference(figures(list(hard - 0.1)), figures(list(hard)))
    assert difference[:3] == pytest.approx((-0.1, -0.1, -0.1))
    assert str(difference) == "-0.100 (-0.100 to -0.100)"
    assert difference.utterances == 30


def test_only_the_same_utterances_compare() -> None:
    with pytest.raises(ValueError, match="same utterances"):
        mcd_difference(figures([1.0, 2.0]), figures([1.0]))
    with pytest.raises(ValueError, match="same utterances"):
        mcd_difference([], [])


def test_interval_is_that_of_a_mean_of_many_and_the_same_each_time() -> None:
    values = np.random.default_rng(1).normal(0.5, 2.0, 400)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.02)
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)


def test_one_sentence_says_nothing_of_others() -> None:
    assert bootstrap_interval(np.array([-0.5])) == (-np.inf, np.inf)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(2).normal(0.3, 1.0, (100, 25))
    inside = sum(low <= 0.3 <= high for low, high in map(bootstrap_interval, drawn))
    assert 85 <= inside <= 99


@pytest.mark.parametrize(
    ("quality", "difference", "limits", "expected"),
    [
        (GOOD, BETTER, Limits(), None),
        (GOOD, None, Limits(), None),
        (GOOD._replace(forgetting=None), BETTER, Limits(), None),
        (GOOD, BETTER._replace(mean=0.0), Limits(), "mean MCD differs"),
        (GOOD, BETTER, Limits(margin=0.2), "-0.100 dB, below -0.2 is asked for"),
        (GOOD._replace(length_ratio=1.11), BETTER, Limits(), "1.11 times as long"),
        (GOOD._replace(length_ratio=0.89), None, Limits(), "0.89 times as long"),
        (GOOD, BETTER, Limits(max_forgetting=0.1), "changed by +0.200 dB, at most +0.1"),
        (GOOD._replace(mcd=np.nan), None, Limits(), "mean MCD is nan"),
        (GOOD._replace(forgetting=np.nan), None, Limits(), "changed by +nan dB"),
        (GOOD._replace(length_ratio=np.nan), None, Limits(), "nan times as long"),
        (GOOD, BETTER._replace(mean=np.nan), Limits(), "differs"),
    ],
)
def test_each_condition_that_fails_is_named(
    quality: Quality, difference: Difference | None, limits: Limits, expected: str | None
) -> None:
    found = objections(quality, difference, limits)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or expected in found[0]


def test_all_that_fails_is_named() -> None:
    bad = Quality(mcd=9.0, length_ratio=2.0, forgetting=5.0)
    assert len(objections(bad, Difference(4.0, 3.0, 5.0, 20), Limits())) == 3

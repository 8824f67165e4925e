"""Successive halving: which trials are stopped, and when they are compared."""

from __future__ import annotations

import math

from dimts.tuning.config import EarlyStopping


def test_the_worse_half_is_stopped_once_enough_trials_are_compared() -> None:
    rule = EarlyStopping(first=1, factor=2, min_trials=4)
    assert not rule.stops(9.0, [1.0, 2.0]), "of three none is stopped"
    assert rule.stops(9.0, [1.0, 2.0, 3.0])
    assert rule.stops(2.5, [1.0, 2.0, 3.0])
    assert not rule.stops(1.5, [1.0, 2.0, 3.0])
    assert not rule.stops(0.5, [1.0, 2.0, 3.0])
    assert not rule.stops(1.0, [1.0, 1.0, 1.0]), "none is better"
    assert rule.stops(1.5, [1.0, *[2.0] * 2, 1.2]), "two of five are better, so it is not among two"


def test_factor_is_the_share_that_goes_on() -> None:
    rule = EarlyStopping(factor=3, min_trials=2)
    others = [float(n) for n in range(8)]
    assert [rule.stops(n - 0.5, others) for n in range(9)] == [False] * 3 + [True] * 6


def test_loss_that_is_no_number_stops_a_trial_and_no_other() -> None:
    rule = EarlyStopping(min_trials=4)
    assert rule.stops(math.nan, [])
    assert rule.stops(math.inf, [])
    assert not rule.stops(1.0, [math.nan] * 5)


def test_rungs_are_before_the_last_validation() -> None:
    assert EarlyStopping(first=1, factor=2).rungs(4) == [1, 2]
    assert EarlyStopping(first=1, factor=2).rungs(5) == [1, 2, 4]
    assert EarlyStopping(first=2, factor=3).rungs(20) == [2, 6, 18]
    assert EarlyStopping(first=4).rungs(4) == []

"""Two voices on the same sentences: the difference, its interval, and what is held against one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from contract.toy.toy_family import ToyFamily

from dimts.core.metric import Metric
from dimts.evaluation.compare import (
    Difference,
    bootstrap_interval,
    in_common,
    not_better,
    paired_difference,
)
from dimts.families.acoustic.family import FAMILY, VoiceLimits
from dimts.families.acoustic.metrics import MCD
from dimts.families.protocol import Family, Measured

GOOD: dict[str, float] = {
    "mcd": 2.0, "mean_mel_mcd": 4.0, "length_ratio": 1.05, "forgetting": 0.2,
}  # fmt: skip
MOS = Metric("mos", "opinion score", direction="maximize", short="MOS")


def measured(values: list[float]) -> Measured:
    return Measured([str(i) for i in range(len(values))], np.array(values), {})


def test_what_sentences_have_in_common_is_no_part_of_the_difference() -> None:
    """Sentences differ by decibels, the voices always by the same tenth: so the interval is it."""
    hard = np.random.default_rng(0).uniform(1, 9, 30)
    difference = paired_difference(measured(list(hard - 0.1)), measured(list(hard)))
    assert difference[:3] == pytest.approx((-0.1, -0.1, -0.1))
    assert str(difference) == "-0.100 (-0.100 to -0.100)"
    assert difference.utterances == 30


def test_only_the_same_utterances_compare() -> None:
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference(measured([1.0, 2.0]), measured([1.0]))
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference(measured([]), measured([]))


def test_sentences_of_which_one_has_no_value_are_left_out() -> None:
    ours, theirs = Measured(["a", "b", "c"], np.array([1.0, 2.0, 3.0]), {}), measured([])
    theirs = theirs._replace(ids=["b", "c", "d"], values=np.array([1.0, 1.0, 9.0]))
    assert paired_difference(*in_common(ours, theirs)).mean == 1.5
    assert not in_common(ours, measured([1.0]))[0].ids


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
    ("changes", "limits", "expected"),
    [
        ({}, VoiceLimits(), None),
        ({"forgetting": None}, VoiceLimits(), None),
        ({"length_ratio": 1.11}, VoiceLimits(), "1.11 times as long"),
        ({"length_ratio": 0.89}, VoiceLimits(), "0.89 times as long"),
        ({}, VoiceLimits(max_forgetting=0.1), "changed by +0.200 dB, at most +0.1"),
        ({"mcd": 3.52}, VoiceLimits(), "no voice yet: its distortion is 0.88 of that of the mean"),
        ({"mcd": 3.52}, VoiceLimits(max_of_mean_mel=0.9), None),
        ({"mcd": np.nan}, VoiceLimits(), "its distortion is nan of that"),
        ({"forgetting": np.nan}, VoiceLimits(), "changed by +nan dB"),
        ({"length_ratio": np.nan}, VoiceLimits(), "nan times as long"),
    ],
)
def test_each_condition_that_fails_is_named(
    changes: dict[str, float | None], limits: VoiceLimits, expected: str | None
) -> None:
    metrics = {key: value for key, value in (GOOD | changes).items() if value is not None}
    found = FAMILY.objections(metrics, limits)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or expected in found[0]


@pytest.mark.parametrize(
    ("metric", "mean", "margin", "expected"),
    [
        (MCD, -0.1, 0.0, None),
        (MCD, 0.0, 0.0, "its mean MCD differs from the champion's by +0.000 dB, below -0 is asked"),
        (MCD, -0.1, 0.2, "-0.100 dB, below -0.2 is asked for"),
        (MCD, np.nan, 0.0, "differs"),
        (MOS, 0.3, 0.2, None),
        (MOS, 0.1, 0.2, "its mean MOS differs from the champion's by +0.100, above +0.2 is asked"),
        (MOS, -0.3, 0.2, "-0.300, above +0.2 is asked for"),
        (MOS, np.nan, 0.0, "differs"),
    ],
)
def test_model_that_is_not_better_by_the_margin_is_refused(
    metric: Metric, mean: float, margin: float, expected: str | None
) -> None:
    """Whichever way is better; what is no number is not."""
    found = not_better(metric, Difference(mean, -1.0, 1.0, 20), margin)
    assert len(found) == (0 if expected is None else 1)
    assert expected is None or expected in found[0]


def test_all_that_fails_is_named() -> None:
    bad = {**GOOD, "mcd": np.nan, "length_ratio": 2.0, "forgetting": 5.0}
    assert len(FAMILY.objections(bad, VoiceLimits())) == 3


def test_model_of_which_nothing_is_measured_is_not_promoted_unasked() -> None:
    class Unmeasured(ToyFamily):
        scores = Family.scores

    family, cpu = Unmeasured(), torch.device("cpu")
    assert family.held_out(None, Path("bundle"), cpu) == ({}, {})
    assert family.measure(None, Path("bundle"), ["val/share"], {}, cpu) == {}
    found = family.for_promotion(None, cpu)(Path("bundle"), "it", True)
    assert not len(found.ids)
    assert found.unmeasured == ("its family measures nothing on held-out data",)

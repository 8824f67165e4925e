"""Ratings side by side: balanced places, points of simulated listeners, and who is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dimts.evaluation.mushra import REFERENCE, Rating, plan, rated, reference_missed

SENTENCES = [f"s{n}" for n in range(30)]
TRUE = {REFERENCE: 95.0, "best": 72.0, "new": 60.0, "old": 48.0}


def ratings_of(name: str, points: dict[str, float], rng: np.random.Generator) -> list[Rating]:
    """Twelve sentences, rated with an error of ten points; clips that stand further right get a
    little more."""
    made = []
    for screen in plan(name, SENTENCES, list(TRUE), 12):
        given = [
            points[system] + (rng.normal(0, 10) + place if system != REFERENCE else 0)
            for place, system in enumerate(screen.systems, start=-1)
        ]
        whole = tuple(round(min(100, max(0, value))) for value in given)
        made.append(Rating(listener=name, points=whole, **screen._asdict()))
    return made


def crowd(n: int, seed: int) -> list[Rating]:
    """Listeners who use the scale each in their own way, the reference apart."""
    rng, made = np.random.default_rng(seed), []
    for name in (f"l{i}" for i in range(n)):
        own = {system: points + rng.normal(0, 6) for system, points in TRUE.items()}
        made += ratings_of(name, own | {REFERENCE: 97.0}, rng)
    return made


def test_each_clip_stands_at_each_place_equally_often() -> None:
    screens = plan("hana", SENTENCES, list(TRUE), 12)
    assert len({screen.sentence for screen in screens}) == 12
    for stop in (4, 8, 12):
        places = Counter(
            (place, name) for screen in screens[:stop] for place, name in enumerate(screen.systems)
        )
        assert set(places.values()) == {stop / 4} and len(places) == 16
    assert screens == plan("hana", SENTENCES, list(TRUE), 12) != plan("lia", SENTENCES, [*TRUE], 12)
    assert len(plan("hana", SENTENCES[:3], list(TRUE), 12)) == 3


def test_points_of_several_voices_are_given_back_by_200_listeners() -> None:
    """Half a point more than what they hear, as places run from -1 to 2."""
    ratings = crowd(200, seed=1)
    for name in ("best", "new", "old"):
        found = rated(ratings, name)
        assert found is not None and found.listeners == 200
        assert found.low < TRUE[name] + 0.5 < found.high and found.high - found.low < 3
    gap = rated(ratings, "new", "old")
    assert gap is not None and 0 < gap.low < 12 < gap.high
    turned = rated(ratings, "old", "new")
    assert turned is not None and turned.points == pytest.approx(-gap.points)
    assert rated(ratings, "gone") is None


def test_interval_of_few_listeners_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        gap = rated(crowd(6, seed + 100), "new", "old")
        held += gap is not None and gap.low < 12 < gap.high
    assert 53 <= held <= 60
    alone = rated(crowd(1, 0), "new")
    assert alone is not None and alone.low < alone.points < alone.high


def test_listeners_who_do_not_hear_the_reference_are_left_out() -> None:
    rng = np.random.default_rng(2)
    honest = crowd(10, seed=3)
    deaf = ratings_of("deaf", dict.fromkeys(TRUE, 60.0), rng)
    lazy = [Rating(listener="lazy", points=(100,) * 4, **r.trial._asdict()) for r in honest[:6]]
    assert reference_missed([*honest, *deaf, *lazy]) == ["deaf", "lazy"]
    assert rated([*honest, *deaf, *lazy], "new") == rated(honest, "new")
    assert rated(deaf, "new") is None


def test_last_rating_of_a_sentence_counts() -> None:
    screen = {"sentence": "s", "systems": ("a", "b")}
    given = [
        Rating.model_validate({"listener": "x", "points": p, **screen}) for p in ((9, 8), (60, 40))
    ]
    found = rated(given, "a", "b")
    assert found is not None
    assert (found.points, found.low, found.high) == (20, -100, 100)  # of one trial nothing is known
    with pytest.raises(ValueError, match="3 for 2 clips"):
        Rating.model_validate({"listener": "x", "points": (1, 2, 3), **screen})

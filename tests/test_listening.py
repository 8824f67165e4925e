"""Blind listening: balanced plans, answers that survive, and results of simulated listeners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dimts.core.errors import UserError
from dimts.evaluation.answers import append_answer, next_trial, read_answers
from dimts.evaluation.bradley_terry import strengths
from dimts.evaluation.listening import Answer, Choice, Trial, one_sided, plan, preference

SENTENCES = [f"s{n}" for n in range(40)]
Listener = Callable[[Trial], Choice]


def prefers(system: str, share: float, rng: np.random.Generator, same: float = 0.1) -> Listener:
    """A listener who prefers a system with this probability, where they hear a difference."""

    def choose(trial: Trial) -> Choice:
        if rng.random() < same:
            return "same"
        wins = rng.random() < share
        return "first" if wins == (trial.first == system) else "second"

    return choose


def answers_of(name: str, listener: Listener, n: int = 12) -> list[Answer]:
    trials = plan(name, SENTENCES, ["new", "old"], n)
    return [Answer(listener=name, choice=listener(trial), **trial._asdict()) for trial in trials]


def crowd(n: int, share: float, std: float, seed: int) -> list[Answer]:
    """Answers of listeners whose own preferences scatter around `share`."""
    rng = np.random.default_rng(seed)
    own = np.clip(rng.normal(share, std, n), 0, 1)
    return [a for i in range(n) for a in answers_of(f"l{i}", prefers("new", own[i], rng))]


def test_plan_is_balanced_wherever_a_listener_stops() -> None:
    trials = plan("hana", SENTENCES, ["a", "b"], 20)
    assert len({trial.sentence for trial in trials}) == len(trials) == 20
    for stop in range(4, 21, 4):
        assert Counter(trial.first for trial in trials[:stop]) == {"a": stop / 2, "b": stop / 2}
    assert (
        trials == plan("hana", SENTENCES, ["a", "b"], 20) != plan("lia", SENTENCES, ["a", "b"], 20)
    )
    pairs = Counter(frozenset(t[1:]) for t in plan("hana", SENTENCES, ["a", "b", "c"], 8))
    assert sorted(pairs.values()) == [8, 8, 8]
    assert len(plan("hana", SENTENCES[:3], ["a", "b"], 20)) == 3


def test_known_preference_of_200_listeners_is_found() -> None:
    answers = crowd(200, share=0.62, std=0.1, seed=1)
    found = preference(answers, "new", "old")
    assert found is not None and found.listeners >= 195
    assert found.low < 0.9 * 0.62 + 0.1 * 0.5 < found.high
    assert found.low > 0.5 and found.p_value < 1e-6
    assert found.high - found.low < 0.08
    turned = preference(answers, "old", "new")
    assert turned is not None
    assert turned.share == pytest.approx(1 - found.share) and turned.p_value == found.p_value


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """With listeners who differ, which an interval of independent answers would not cover."""
    held = 0
    for seed in range(40):
        found = preference(crowd(12, share=0.6, std=0.25, seed=seed), "new", "old")
        assert found is not None
        held += found.low < 0.9 * 0.6 + 0.05 < found.high
    assert held >= 35


def answers_by_strength(n: int, strength: dict[str, float], seed: int) -> list[Answer]:
    """Answers of listeners who prefer one of two systems as Bradley and Terry have it."""
    rng, answers = np.random.default_rng(seed), []
    for name in (f"l{i}" for i in range(n)):
        for trial in plan(name, SENTENCES, list(strength), 4):
            gap = strength[trial.second] - strength[trial.first]
            choice: Choice = "first" if rng.random() < 1 / (1 + np.exp(gap)) else "second"
            answers.append(Answer(listener=name, choice=choice, **trial._asdict()))
    return answers


def test_strengths_of_several_voices_are_given_back_by_200_listeners() -> None:
    true = {"old": -0.5, "new": 0.4, "other": -0.2, "best": 0.3}  # of mean 0
    answers = answers_by_strength(200, true, seed=1)
    found = strengths(answers, list(true))
    assert [of.system for of in found][-2:] == ["other", "old"]
    for of in found:
        assert of.low < 1 / (1 + np.exp(-true[of.system])) < of.high
        assert of.high - of.low < 0.06
    assert found[0].low > 0.5 > found[-1].high
    lefty = [Answer(listener="x", choice="first", **a.trial._asdict()) for a in answers[:40]]
    assert strengths([*answers, *lefty], list(true)) == found
    assert strengths([], list(true)) == []


def test_strengths_of_few_listeners_hold_the_truth_and_are_finite() -> None:
    true, held = {"a": -0.6, "b": 0.0, "c": 0.6}, 0
    for seed in range(30):
        found = strengths(answers_by_strength(6, true, seed), list(true))
        held += sum(of.low < 1 / (1 + np.exp(-true[of.system])) < of.high for of in found)
    assert held >= 81  # of 90; 95 % are 85.5
    always = answers_by_strength(1, {"a": 0, "b": 9, "c": 99}, seed=0)
    best, *_, worst = strengths(always, ["a", "b", "c"])
    assert (best.system, worst.system) == ("c", "a") and 0.5 < best.low < best.high < 1


def test_no_preference_is_no_finding() -> None:
    found = preference(crowd(40, share=0.5, std=0.0, seed=3), "new", "old")
    assert found is not None
    assert found.low < 0.5 < found.high and found.p_value > 0.05


def test_listener_who_always_clicks_left_is_left_out() -> None:
    rng = np.random.default_rng(4)
    honest = crowd(10, share=0.7, std=0.0, seed=5)
    strict = answers_of("strict", prefers("new", 1.0, rng, same=0.0))
    left = answers_of("lefty", lambda trial: "first")
    assert one_sided([*honest, *strict, *left]) == ["lefty"]
    assert preference([*honest, *left], "new", "old") == preference(honest, "new", "old")
    assert preference(left, "new", "old") is None


def test_answers_are_kept_and_a_listener_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "answers" / "ab.jsonl"
    trials = plan("ሃና", SENTENCES, ["new", "old"], 6)
    assert next_trial(trials, read_answers(file, Answer), "ሃና") == trials[0]
    for trial in trials[:3]:
        append_answer(file, Answer(listener="ሃና", choice="same", **trial._asdict()))
    with file.open("a", encoding="utf-8") as cut_off:
        cut_off.write('{"listener": "ሃ')
    assert next_trial(trials, read_answers(file, Answer), "ሃና") == trials[3]
    assert next_trial(trials, read_answers(file, Answer), "lia") == trials[0]
    append_answer(file, Answer(listener="lia", choice="first", **trials[0]._asdict()))
    assert [answer.listener for answer in read_answers(file, Answer)] == ["ሃና"] * 3 + ["lia"]
    file.write_text('{"listener": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"ab\.jsonl:1: no answer"):
        read_answers(file, Answer)

"""Blind comparison by listeners: who hears what in which order, and what their answers show.

A trial is one sentence, spoken by two systems; the listener prefers the first, the second, or
neither. The plan of a listener follows from their name alone, so it can be continued at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from dimts.core.config import Config
from dimts.core.errors import UserError

CONFIDENCE = 0.95
BLOCK = 4
"""Trials of a pair after which both orders have been heard equally often."""
ONE_SIDED = 0.01
"""A listener is left out if choices as one-sided as theirs are less likely than this by chance."""
Choice = Literal["first", "second", "same"]


class Trial(NamedTuple):
    """One sentence by two systems, in the order in which they are heard."""

    sentence: str
    first: str
    second: str


class Answer(Config):
    """What a listener preferred; one line of the file of answers."""

    listener: str = Field(min_length=1, max_length=80)
    sentence: str
    first: str
    second: str
    choice: Choice

    @property
    def trial(self) -> Trial:
        """What was heard."""
        return Trial(self.sentence, self.first, self.second)


class Preference(NamedTuple):
    """How often listeners prefer one system to another.

    Attributes:
        one, other: the systems.
        share: of the answers, those that prefer `one`; an undecided one counts half.
        low, high: 95 % interval of the share.
        wins, losses, undecided: answers for `one`, for `other`, for neither.
        p_value: of the two-sided sign test; undecided answers are not counted.
        listeners: whose answers were counted.
    """

    one: str
    other: str
    share: float
    low: float
    high: float
    wins: int
    losses: int
    undecided: int
    p_value: float
    listeners: int


def plan(
    listener: str, sentences: Sequence[str], systems: Sequence[str], n_sentences: int
) -> list[Trial]:
    """What a listener is to hear: each pair of systems on `n_sentences`, drawn for them.

    In each `BLOCK` of a pair's trials both systems come first equally often, so a listener who
    stops early has heard balanced orders, too.
    """
    seed = int.from_bytes(hashlib.sha256(listener.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    trials: list[tuple[float, Trial]] = []
    for one, other in combinations(systems, 2):
        drawn = rng.permutation(len(sentences))[:n_sentences]
        n_blocks = -(-len(drawn) // BLOCK)
        swaps = np.concatenate([rng.permutation(BLOCK) % 2 for _ in range(n_blocks)] or [drawn])
        # Sorted by these, pairs alternate at random and the order within a pair stays.
        when = np.sort(rng.random(len(drawn)))
        for position, index, swap in zip(when, drawn, swaps, strict=False):
            order = (other, one) if swap else (one, other)
            trials.append((float(position), Trial(sentences[index], *order)))
    return [trial for _, trial in sorted(trials)]


def read_answers(file: Path) -> list[Answer]:
    """Answers in the order in which they came; none if there is no file.

    A last line without an end is one that a crash has cut off; it is not counted.

    Raises:
        UserError: the file cannot be read, or a line is no answer.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    answers = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            answers.append(Answer.model_validate_json(line))
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UserError(f"{file}:{number}: no answer ({what}); remove the line") from error
    return answers


def append_answer(file: Path, answer: Answer) -> None:
    """Add a line, which is on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(answer.model_dump(), ensure_ascii=False) + "\n"
    with file.open("a+b") as out:
        if (size := out.seek(0, os.SEEK_END)) and os.pread(out.fileno(), 1, size - 1) != b"\n":
            whole = os.pread(out.fileno(), size, 0)
            out.truncate(whole.rfind(b"\n") + 1)  # a line that was cut off
        out.write(line.encode())
        out.flush()
        os.fsync(out.fileno())


def next_trial(trials: Sequence[Trial], answers: Iterable[Answer], listener: str) -> Trial | None:
    """The first trial that the listener has not answered; None at the end."""
    done = {answer.trial for answer in answers if answer.listener == listener}
    return next((trial for trial in trials if trial not in done), None)


def one_sided(answers: Iterable[Answer]) -> list[str]:
    """Listeners who click the same side whatever they hear, by a binomial test.

    As orders are balanced, even who always prefers one system chooses each side equally often.
    """
    from scipy.stats import binomtest

    sides: dict[str, list[Choice]] = defaultdict(list)
    for answer in answers:
        if answer.choice != "same":
            sides[answer.listener].append(answer.choice)
    return [
        name
        for name, chosen in sides.items()
        if binomtest(chosen.count("first"), len(chosen)).pvalue < ONE_SIDED
    ]


def preference(answers: Iterable[Answer], one: str, other: str) -> Preference | None:
    """How often `one` is preferred to `other`; None if nobody has compared them.

    Of several answers to a trial the last counts, and those of `one_sided` listeners do not. The
    interval is the wider of Wilson's (1927), as if all answers were independent, and that of a
    share whose answers are clustered by listener (linearised variance, t of the listeners - 1).
    """
    from scipy.stats import binomtest, t

    answers = list(answers)
    out = set(one_sided(answers))
    kept = {
        (a.listener, a.sentence): a
        for a in answers
        if a.listener not in out and {a.first, a.second} == {one, other}
    }
    if not kept:
        return None
    scores: dict[str, list[float]] = defaultdict(list)
    for answer in kept.values():
        chosen = {"first": answer.first, "second": answer.second}.get(answer.choice)
        scores[answer.listener].append(0.5 if chosen is None else float(chosen == one))
    values = np.concatenate([np.array(of) for of in scores.values()])
    n, share = len(values), float(values.mean())
    wins, losses = int((values == 1).sum()), int((values == 0).sum())
    low, high = _wilson(share, n)
    if len(scores) > 1:
        residuals = np.array([sum(of) - share * len(of) for of in scores.values()])
        variance = len(scores) / (len(scores) - 1) * float(residuals @ residuals) / n**2
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)) * variance**0.5
        low, high = max(0.0, min(low, share - half)), min(1.0, max(high, share + half))
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    counts = (wins, losses, n - wins - losses)
    return Preference(one, other, share, low, high, *counts, p_value, len(scores))


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)

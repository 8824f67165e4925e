"""Number words by rules, written as those of ICU's RuleBasedNumberFormat; see `Numbers.rules`.

A rule set maps ``BASE`` or ``BASE/RADIX`` to a text and holds from that number on. In the text
``>%SET>`` stands for what remains of the number, ``<%SET<`` for how often its base holds the power
of the radix, ``=%SET=`` for the number itself, in the words of a set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

MAX_RULES_A_NUMBER = 150
LARGEST_BY_RULES = 10**12 - 1
BASE = re.compile(r"(\d{1,13})(?:/(\d{1,13}))?")
SUBSTITUTION = re.compile(r"([<>=])(%%?[\w-]+)\1")

RuleSets = Mapping[str, Mapping[str, str]]


class _Rule(NamedTuple):
    base: int
    divisor: int
    text: str


def check_rules(rules: RuleSets) -> None:
    """Refuse rules that cannot be followed.

    Raises:
        ValueError: a base that is no number, or a set that is not there; names set and rule.
    """
    for name, texts in rules.items():
        for base, text in texts.items():
            match = BASE.fullmatch(base)
            if not match or (match[2] and int(match[2]) < 2):
                raise ValueError(f"rules: {name}: {base!r} is neither a number nor 20/20")
            for _, other in SUBSTITUTION.findall(text):
                if other not in rules:
                    raise ValueError(f"rules: {name}: {base}: there is no {other}")
    if rules and not next(iter(rules.values())):
        raise ValueError("rules: the first set is empty")


def literals(rules: RuleSets) -> list[str]:
    """The words of all rules, without their substitutions."""
    return [SUBSTITUTION.sub(" ", text) for texts in rules.values() for text in texts.values()]


class Spellout:
    """Words of whole numbers, from 0, by the first of the sets."""

    def __init__(self, rules: RuleSets):
        self._first = next(iter(rules))
        self._sets = {
            name: sorted(_rule(base, text) for base, text in texts.items())
            for name, texts in rules.items()
        }

    def words(self, number: int) -> str:
        """`number` in words.

        Raises:
            LookupError: no rule covers it or a part of it, or the rules go in a circle.
        """
        self._left = MAX_RULES_A_NUMBER
        return " ".join(self._spell(number, self._first).split())

    def _spell(self, number: int, name: str) -> str:
        self._left -= 1
        if self._left < 0:
            raise LookupError(f"the number words of {number} never end")
        rules = self._sets[name]
        i = max((i for i, rule in enumerate(rules) if rule.base <= number), default=None)
        if i is None:
            raise LookupError(f"{name} has no rule for {number}")
        rule = rules[i]
        # 200 has no rest, so the rule of 101 leaves it to that of 100.
        if i and ">%" in rule.text and number % rule.divisor == 0 and rule.base % rule.divisor:
            rule = rules[i - 1]
        parts = {"<": number // rule.divisor, ">": number % rule.divisor, "=": number}
        return SUBSTITUTION.sub(lambda sub: self._spell(parts[sub[1]], sub[2]), rule.text)


def _rule(base: str, text: str) -> _Rule:
    match = BASE.fullmatch(base)
    assert match
    value, radix = int(match[1]), int(match[2] or 10)
    divisor = 1
    while divisor * radix <= value:
        divisor *= radix
    return _Rule(value, divisor, text)


@lru_cache(maxsize=8)
def _spellout(rules: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]) -> Spellout:
    return Spellout({name: dict(texts) for name, texts in rules})


def spell(number: int, rules: RuleSets) -> str:
    """`Spellout.words` of rules that are used again and again."""
    return _spellout(tuple((name, tuple(t.items())) for name, t in rules.items())).words(number)

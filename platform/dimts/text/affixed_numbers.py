"""Numbers in words where a language lists what may touch them: በ2015 and 5ኛው, but 5 ቀን of 5ቀን."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from dimts.text.numbers import digits_pattern, number_words, one_of
from dimts.text.replacing import replaced
from dimts.text.short_forms import longest_first

if TYPE_CHECKING:
    from dimts.text.language import Language, Numbers


def affixed_number_reader(language: Language, tables: Numbers) -> Callable[[str], str]:
    """A function that puts every number in digits into words.

    Letters of `prefixes` before it and `suffixes` after it stay on its words; any others are words
    of their own. A suffix that begins with another syllable of the consonant which the words end
    in takes its place: 5ቱ is አምስቱ.
    """
    prefixes, longest = frozenset(language.prefixes), max(map(len, language.prefixes))
    factors = language.syllables.factors if language.syllables else {}
    letter = language.letters_pattern
    suffixes = rf"(?:{one_of(longest_first(language.suffixes))})"
    ordinals = one_of(tables.ordinals.suffixes if tables.ordinals else ())
    between = re.compile(rf"(?<=\d)({one_of(tables.between)})(?=\d)")
    whole_suffix = re.compile(suffixes + "{1,2}")
    number = re.compile(
        rf"(?P<minus>(?<!\w)[-−])?(?P<number>{digits_pattern(tables)})"
        rf"(?:[ -]?(?P<suffix>{ordinals})(?={suffixes}{{0,2}}(?!{letter})))?(?P<rest>{letter}*)"
    )

    def space_before(match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - longest - 1) : match.start()]
        run = len(before) - len(before.rstrip("".join({c for c in before if c.isalpha()})))
        return "" if not run or before[-run:] in prefixes else " "

    def attached(words: str, rest: str) -> str:
        if not whole_suffix.fullmatch(rest):
            return f"{words} {rest}"
        last, first = factors.get(words[-1]), factors.get(rest[0])
        merges = last and first and last[0] == first[0] and last != first
        return (words[:-1] if merges else words) + rest

    def read(match: re.Match[str]) -> str:
        words = number_words(match, tables)
        if match["rest"]:
            words = attached(words, match["rest"])
        after = match.string[match.end() : match.end() + 1]
        return space_before(match) + words + (" " if after.isalpha() else "")

    def read_all(text: str) -> str:
        text = replaced(between, text, lambda match: tables.between[match[1]])
        return replaced(number, text, read)

    return read_all

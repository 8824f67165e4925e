"""Numbers in words, composed from a language's tables; nothing here knows a language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from dimts.text.replacing import check_length, replaced
from dimts.text.spellout import LARGEST_BY_RULES, spell

if TYPE_CHECKING:
    from dimts.text.language import Numbers

SLASH = "\u2044"
"""Of a fraction, as `number_forms` has written it; any other slash stands between two numbers."""


def cardinal(number: int, tables: Numbers) -> str:
    """`number` from 0 to `largest` in words, e.g. 1983 -> አንድ ሺህ ዘጠኝ መቶ ሰማንያ ሦስት."""
    if tables.rules:
        try:
            return spell(number, tables.rules)
        except LookupError:
            return _digits(str(number), tables)
    if number < len(tables.units):
        return tables.units[number]
    if number < 100:
        rest = number % 10
        words = tables.tens[number - rest]
    else:
        scale = [scale for scale in tables.scales if scale.value <= number][-1]
        count, rest = divmod(number, scale.value)
        words = f"{cardinal(count, tables)} {scale.word}"
    return f"{words} {cardinal(rest, tables)}" if rest else words


def largest(tables: Numbers) -> int:
    """The largest number the tables have words for."""
    return LARGEST_BY_RULES if tables.rules else tables.scales[-1].value * 1000 - 1


def ordinal(number: int, tables: Numbers) -> str | None:
    """`number` as an ordinal, or None where the tables have none for it."""
    if tables.ordinals is None:
        return None
    before, space, last = cardinal(number, tables).rpartition(" ")
    word = tables.ordinals.words.get(last)
    return None if word is None else f"{before}{space}{word}"


def numeral_value(text: str, numerals: Mapping[str, int]) -> int:
    """Value of a number in an additive-multiplicative system, e.g. ፲፱፻፹፫ = 1983.

    Letters under 100 add up. One of 100 or more multiplies the smaller numbers just before
    it (1 where there is none); the largest of all multiplies everything before it.
    """
    top = max(numerals.values())
    terms: list[int] = []
    for letter in text:
        value = numerals[letter]
        if value >= 100:
            count = 0
            while terms and (value == top or terms[-1] < value):
                count += terms.pop()
            value *= max(count, 1)
        terms.append(value)
    return sum(terms)


def numeral_reader(tables: Numbers) -> Callable[[str], str]:
    """A function that writes the numerals of a text in digits, as far as there are words."""
    numerals = "".join(map(re.escape, tables.numerals))
    pattern = re.compile(f"[{numerals}]+" if numerals else "(?!)")

    def value_of(match: re.Match[str]) -> str:
        value = numeral_value(match[0], tables.numerals)
        return str(value) if value <= largest(tables) else match[0]

    return lambda text: replaced(pattern, text, value_of)


def number_reader(
    tables: Numbers, affixes: Literal["attached", "separate"]
) -> Callable[[str], str]:
    """A function that puts every number in digits into words.

    ``attached`` affixes, letters that touch a number as in በ1983, stay on its words.
    """
    between = re.compile(rf"(?<=\d)({one_of(tables.between)})(?=\d)")
    end = r"(?!\w)" if affixes == "separate" else ""
    suffixes = one_of(tables.ordinals.suffixes if tables.ordinals else ())
    number = re.compile(
        rf"(?P<minus>(?<!\w)[-−])?(?P<number>{digits_pattern(tables)})"
        rf"(?P<suffix>(?:{suffixes}){end})?"
    )
    space = " " if affixes == "separate" else ""

    def read(text: str) -> str:
        text = replaced(between, text, lambda match: tables.between[match[1]])
        return replaced(number, text, lambda match: f"{space}{number_words(match, tables)}{space}")

    return read


def one_of(texts: Iterable[str]) -> str:
    """A pattern of the first of the texts that is there; of none it matches nothing."""
    return "|".join(map(re.escape, texts)) or "(?!)"


def digits_pattern(tables: Numbers) -> str:
    """A pattern of a number: digits, in groups (1,000,000, in India 10,00,000) or not, and any
    number of decimals; or a fraction that the tables have, after a whole number or not."""
    group, point = re.escape(tables.group_separator), re.escape(tables.decimal_separator)
    indian = rf"\d{{1,2}}(?:{group}\d{{2}})+{group}\d{{3}}(?!\d)"
    digits = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+(?!\d)|{indian}|\d+)(?:{point}\d+)*"
    if not tables.fractions:
        return digits
    fraction = one_of(key.replace("/", SLASH) for key in tables.fractions if key[0] != "+")
    return rf"(?:(?:\d{{1,3}} )?(?:{fraction})(?!\d)|{digits})"


def number_words(match: re.Match[str], tables: Numbers) -> str:
    """Words of the groups `minus`, `number` and, of an ordinal, `suffix`."""
    check_length(len(match["number"]) * max(map(len, (*tables.units[:10], tables.point))))
    minus = f"{tables.minus} " if match["minus"] else ""
    if SLASH in match["number"]:
        return minus + _fraction(match["number"], tables)
    whole, *fractions = match["number"].split(tables.decimal_separator)
    whole = whole.replace(tables.group_separator, "")
    suffix = match["suffix"] or ""
    too_long = len(whole) > len(str(largest(tables)))
    value = 0 if too_long else int(whole)
    if too_long or value > largest(tables) or (len(whole) > 1 and int(whole[0]) == 0):
        words = _digits(whole, tables)
    elif suffix and not fractions and (words_ordinal := ordinal(value, tables)):
        words, suffix = words_ordinal, ""
    else:
        words = cardinal(value, tables)
    spoken = [words, *(_digits(fraction, tables) for fraction in fractions)]
    return minus + f" {tables.point} ".join(spoken) + suffix


def _fraction(text: str, tables: Numbers) -> str:
    """1⁄2 or, after a whole number, 5 1⁄2."""
    whole, _, fraction = text.replace(SLASH, "/").rpartition(" ")
    words = tables.fractions[fraction]
    if not whole:
        return words
    return f"{cardinal(int(whole), tables)} {tables.fractions.get(f'+{fraction}', words)}"


def _digits(text: str, tables: Numbers) -> str:
    """Each digit by itself: 007 -> zero zero seven."""
    return " ".join(tables.units[int(digit)] for digit in text)

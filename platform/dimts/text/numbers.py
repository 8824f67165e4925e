"""Numbers in words, composed from a language's tables; nothing here knows a language."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from dimts.text.language import Numbers
from dimts.text.replacing import check_length, replaced

NUMBER = r"(?:\d{{1,3}}(?:{group}\d{{3}})+(?!\d)|\d+)(?:{point}\d+)*"


def cardinal(number: int, tables: Numbers) -> str:
    """`number` in words, e.g. 1983 -> አንድ ሺህ ዘጠኝ መቶ ሰማንያ ሦስት.

    Raises:
        ValueError: the number is beyond a thousand of the largest scale; see `largest`.
    """
    if number < 0:
        return f"{tables.minus} {cardinal(-number, tables)}"
    if number > largest(tables):
        raise ValueError(f"{number} is beyond {largest(tables)}, the largest number with words")
    if number < len(tables.units):
        return tables.units[number]
    if number < 100:
        tens = number // 10 * 10
        return _joined(tables.tens[tens], number - tens, tables)
    scale = max((s for s in tables.scales if s.value <= number), key=lambda s: s.value)
    count, rest = divmod(number, scale.value)
    return _joined(f"{cardinal(count, tables)} {scale.word}", rest, tables)


def largest(tables: Numbers) -> int:
    """The largest number the tables have words for."""
    return tables.scales[-1].value * 1000 - 1


def ordinal(number: int, tables: Numbers) -> str | None:
    """`number` as an ordinal, or None where the tables have none for it."""
    if tables.ordinals is None:
        return None
    before, space, last = cardinal(number, tables).rpartition(" ")
    word = tables.ordinals.words.get(last)
    return None if word is None else f"{before}{space}{word}"


def digits(text: str, tables: Numbers) -> str:
    """Each digit by itself: 007 -> zero zero seven."""
    return " ".join(tables.units[int(digit)] for digit in text)


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


def number_reader(
    tables: Numbers, affixes: Literal["attached", "separate"]
) -> Callable[[str], str]:
    """A function that puts every number of a text into words.

    Args:
        tables: the language's words.
        affixes: ``attached`` keeps letters that touch a number, as in በ1983, on its words.
    """
    numerals = "".join(re.escape(letter) for letter in tables.numerals)
    digit = rf"[\d{numerals}]"
    between = re.compile(
        rf"(?<={digit})({'|'.join(map(re.escape, tables.between))})(?={digit})"
        if tables.between
        else r"(?!)"
    )
    numeral = re.compile(f"[{numerals}]+" if numerals else r"(?!)")
    number = _number_pattern(tables, affixes)

    def value_of(match: re.Match[str]) -> str:
        value = numeral_value(match[0], tables.numerals)
        return str(value) if value <= largest(tables) else match[0]

    space = " " if affixes == "separate" else ""

    def read(text: str) -> str:
        text = replaced(between, text, lambda match: tables.between[match[1]])
        text = replaced(numeral, text, value_of)
        return replaced(number, text, lambda match: f"{space}{_words(match, tables)}{space}")

    return read


def _number_pattern(tables: Numbers, affixes: str) -> re.Pattern[str]:
    number = NUMBER.format(
        group=re.escape(tables.group_separator), point=re.escape(tables.decimal_separator)
    )
    suffixes = "|".join(map(re.escape, tables.ordinals.suffixes)) if tables.ordinals else "(?!)"
    end = r"(?!\w)" if affixes == "separate" else ""
    return re.compile(
        rf"(?P<minus>(?<!\w)[-−])?(?P<number>{number})(?P<suffix>(?:{suffixes}){end})?"
    )


def _words(match: re.Match[str], tables: Numbers) -> str:
    check_length(len(match["number"]) * max(map(len, (*tables.units[:10], tables.point))))
    whole, *fractions = match["number"].split(tables.decimal_separator)
    whole = whole.replace(tables.group_separator, "")
    suffix = match["suffix"] or ""
    too_long = len(whole) > len(str(largest(tables)))
    value = 0 if too_long else int(whole)
    if too_long or (len(whole) > 1 and int(whole[0]) == 0):
        words = digits(whole, tables)
    elif suffix and not fractions and (words_ordinal := ordinal(value, tables)):
        words, suffix = words_ordinal, ""
    else:
        words = cardinal(value, tables)
    spoken = [words, *(digits(fraction, tables) for fraction in fractions)]
    minus = f"{tables.minus} " if match["minus"] else ""
    return minus + f" {tables.point} ".join(spoken) + suffix


def _joined(words: str, rest: int, tables: Numbers) -> str:
    return f"{words} {cardinal(rest, tables)}" if rest else words

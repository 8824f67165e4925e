"""Dates, fractions, times, ranges, phone numbers and units, before their numbers become words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from dimts.text.numbers import SLASH, digits_pattern, one_of
from dimts.text.replacing import replaced
from dimts.text.short_forms import longest_first

if TYPE_CHECKING:
    from dimts.text.language import Clock, Language, Numbers

Rule = Callable[[str], str]
_PHONE = re.compile(
    r"(?<![\d.,/+])"
    r"(?:\+\d{1,3}[ -]?\(?\d{1,4}\)?(?:[ -]?\d{2,4}){1,4}|0\d{1,3}(?:[ -]\d{2,7}){1,4})"
    r"(?![\w/]|[.,-]\d)"
)
_DIGITS_OF_PHONES = range(9, 16)


def number_forms(language: Language) -> list[Rule]:
    """Rules that rewrite what surrounds digits; the digits stay for `numbers.number_reader`."""
    if (tables := language.numbers) is None:
        return []
    rules = (
        _phones(tables) if tables.phone_plus else None,
        _dates(tables) if tables.date_marks else None,
        _fractions(tables) if tables.fractions else None,
        _times(language, tables.clock, tables.range_word) if tables.clock else None,
        _ranges(tables) if tables.range_word else None,
        _units_after(language) if language.units_after else None,
    )
    return [rule for rule in rules if rule]


def _phones(tables: Numbers) -> Rule:
    """+251 911 23 45 67, 0911-234567: digit by digit."""

    def read(match: re.Match[str]) -> str:
        digits = re.findall(r"\d", match[0])
        if len(digits) not in _DIGITS_OF_PHONES:
            return match[0]
        plus = f"{tables.phone_plus} " if match[0].startswith("+") else ""
        return plus + " ".join(digits)

    return lambda text: replaced(_PHONE, text, read)


def _dates(tables: Numbers) -> Rule:
    """12/03/2015 -> 12 3 2015, year last or first."""
    mark, day, year = f"[{re.escape(tables.date_marks)}]", r"\d{1,2}", r"\d{4}"
    pattern = re.compile(
        rf"(?<![\d./-])(?:({day})({mark})({day})\2({year})|({year})({mark})({day})\6({day}))"
        rf"(?!\d|{mark}\d)"
    )

    def read(match: re.Match[str]) -> str:
        numbers = (group for group in match.groups() if group and group.isdecimal())
        return " ".join(str(int(number)) for number in numbers)

    return lambda text: replaced(pattern, text, read)


def _fractions(tables: Numbers) -> Rule:
    """1/2 and ½ -> 1⁄2 where that is one that the tables have; 1/2/3 and 2-1/2 stay."""
    pattern = re.compile(
        rf"[¼-¾⅐-⅞]|(?<![\d.,:/–—-])(?:{one_of(tables.fractions)})(?![\d/:]|[.,–—-]\d)"
    )

    def read(match: re.Match[str]) -> str:
        touches = match.string[match.start() - 1 : match.start()].isdecimal()
        return " " * touches + unicodedata.normalize("NFKC", match[0]).replace("/", SLASH)

    return lambda text: replaced(pattern, text, read)


def _times(language: Language, clock: Clock, range_word: str) -> Rule:
    """8:30 -> 8 hours and a half; seconds make it something else."""
    suffixes, letter = frozenset(language.suffixes), language.letters_pattern
    mark, hour = f"[{re.escape(clock.marks)}]", re.escape(clock.hour)
    time = rf"([01]?\d|2[0-4]){mark}([0-5]\d)(?!\d|[.,/]\d|{mark}\d)"
    pattern = re.compile(rf"(?<![\d.,:/-])(?<!\d{mark}){time}(?:\s*{hour})?({letter}*)")
    to = re.compile(rf"(?<=\d{mark}\d\d) ?[-–] ?(?={time})") if range_word else None

    def read(match: re.Match[str]) -> str:
        minutes = int(match[2])
        past = f" {clock.minutes_before}{minutes} {clock.minutes}" if minutes else ""
        past = f" {clock.half}" if minutes == 30 else past
        after = match[3] or match.string[match.end() : match.end() + 1]
        space = " " if after.isalpha() and after not in suffixes else ""
        return f"{int(match[1])} {clock.hour}{past}{space}{match[3]}"

    def read_all(text: str) -> str:
        text = replaced(to, text, lambda _: f" {range_word} ") if to else text
        return replaced(pattern, text, read)

    return read_all


def _ranges(tables: Numbers) -> Rule:
    """5-10 -> 5 to 10, also of ordinals, if the numbers rise and none begins with a 0."""
    number = digits_pattern(tables)
    ordinal = one_of(tables.ordinals.suffixes if tables.ordinals else ())
    pattern = re.compile(
        rf"(?<![\d.,:/–—-])({number})({ordinal}|)( ?)[-–—]\3({number})(?![\d/:]|[-–—]\d)"
    )

    def value(written: str) -> float:
        plain = written.replace(tables.group_separator, "").replace(tables.decimal_separator, ".")
        leading = len(plain) > 1 and plain[0] == "0" and plain[1] != "."
        no_value = leading or plain.count(".") > 1 or SLASH in plain
        return float("nan") if no_value else float(plain)

    def read(match: re.Match[str]) -> str:
        if not value(match[1]) < value(match[4]):
            return match[0]
        return f"{match[1]}{match[2]} {tables.range_word} {match[4]}"

    return lambda text: replaced(pattern, text, read)


def _units_after(language: Language) -> Rule:
    """5 km -> 5 kilometres; a letter after it makes it another word."""
    table = language.units_after
    pattern = re.compile(rf"(?<=\d)\s?({one_of(longest_first(table))})(?!\w)")
    return lambda text: replaced(pattern, text, lambda match: f" {table[match[1]]}")

"""What dimts knows of a language's writing: one YAML file a language, and no code.

``languages/<code>.yaml`` holds the alphabet, punctuation, variants, homophones, syllables
and numbers. A new language is a new file; a file elsewhere is used by naming its path.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dimts.core.config import Config, load_config
from dimts.core.errors import ConfigError
from dimts.text.letters import (
    BY_LETTER,
    Base,
    Character,
    Fraction,
    Letters,
    Said,
    Text,
    Word,
    expand,
    visible,
)
from dimts.text.spellout import check_rules, literals

LANGUAGES = Path(__file__).parent / "languages"
FILES = (".yaml", ".yml")
NO_LANGUAGES = ("pad", "eos")
"""Codes whose start token would be one that every vocabulary has for something else."""


def absent(value: object) -> bool:
    """Whether a field is left out of a dump: fingerprints stay those of before there was one."""
    return not value


class SyllableRow(Config):
    """Letters of one consonant, aligned with the vowels of their series.

    Rows of the same sound share their consonant's name, so that they share its embedding.
    """

    consonant: Word
    vowels: Word
    letters: Letters


class Syllables(Config):
    """A syllabary's letters factored as consonant and vowel order."""

    series: dict[Word, tuple[Word, ...]] = Field(description="name -> vowel of each column")
    rows: tuple[SyllableRow, ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        seen: set[str] = set()
        for row in self.rows:
            if (vowels := self.series.get(row.vowels)) is None:
                allowed = ", ".join(self.series)
                raise ValueError(
                    f"row {row.letters}: no series {row.vowels!r}; there are {allowed}"
                )
            if len(row.letters) != (n := len(vowels)):
                raise ValueError(f"row {row.letters}: series {row.vowels} wants {n} letters")
            if twice := seen & set(row.letters):
                raise ValueError(f"row {row.letters}: {''.join(sorted(twice))} is in two rows")
            seen |= set(row.letters)
        return self

    @property
    def consonants(self) -> tuple[str, ...]:
        """Names in the order of their first row."""
        return tuple(dict.fromkeys(row.consonant for row in self.rows))

    @property
    def vowels(self) -> tuple[str, ...]:
        """Names in the order of the series."""
        return tuple(dict.fromkeys(vowel for vowels in self.series.values() for vowel in vowels))

    @cached_property
    def factors(self) -> dict[str, tuple[str, str]]:
        """Letter -> names of its consonant and its vowel."""
        return {
            letter: (row.consonant, vowel)
            for row in self.rows
            for letter, vowel in zip(row.letters, self.series[row.vowels], strict=True)
        }


class Ordinals(Config):
    """A numeral followed by a suffix: the last word of the cardinal changes."""

    suffixes: tuple[Word, ...]
    words: dict[Text, Said] = Field(description="last word of a cardinal -> its ordinal")


class Scale(Config):
    """A power of ten with a word of its own, from 100 up."""

    value: int = Field(ge=100)
    word: Word


class Clock(Config):
    """Times of day: 8:30, where a number of two digits follows a mark after the hour."""

    marks: Word = Field(description="any of these stands between hour and minutes")
    hour: Word = Field(description="follows the hour; one that is written there is not repeated")
    half: Word = Field(description="said for 30 minutes")
    minutes_before: Said = Field(description="letters that the minutes begin with")
    minutes: Word = Field(description="follows the minutes")


class Numbers(Config):
    """Tables or rules by which every cardinal is composed, and how numerals are written."""

    units: tuple[Word, ...] = Field(
        min_length=10, max_length=100, description="words of 0, 1, 2, ...; more are composed"
    )
    tens: dict[int, Said] = Field(default={})
    scales: tuple[Scale, ...] = ()
    rules: dict[Word, dict[Base, Said]] = Field(
        default={},
        exclude_if=absent,
        description="instead of tens and scales, see `text.spellout`; the first set begins",
    )
    minus: Word
    point: Word
    decimal_separator: Character = "."
    group_separator: Character = ","
    between: dict[Word, Said] = Field(default={}, description="mark between numerals -> said as")
    ordinals: Ordinals | None = None
    numerals: dict[Character, int] = Field(
        default={}, description="letters of an additive-multiplicative system, hundreds included"
    )
    clock: Clock | None = Field(None, exclude_if=absent)
    range_word: Said = Field("", exclude_if=absent, description="between numbers that rise: 5-10")
    date_marks: Said = Field("", exclude_if=absent, description="marks of dates: 12/3/2015")
    phone_plus: Said = Field(
        "", exclude_if=absent, description="+ of a phone number, which is read digit by digit"
    )
    fractions: dict[Fraction, Said] = Field(
        default={}, exclude_if=absent, description="1/2 or, after a whole number, +1/2 -> words"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.rules:
            check_rules(self.rules)
            return self
        missing = [ten for ten in range(20, 100, 10) if ten not in self.tens]
        if missing and len(self.units) < missing[-1] + 10:
            raise ValueError(f"tens: {missing[0]} is missing")
        values = [scale.value for scale in self.scales]
        if values != sorted(set(values)) or not values or values[0] != 100:
            raise ValueError("scales: must rise from 100")
        for low, high in itertools.pairwise(values):
            if high % low or high // low > low * 100:
                raise ValueError(f"scales: nothing can be said between {low} and {high}")
        return self


class Acronyms(Config):
    """Words in capitals that are spelled letter by letter."""

    letter_names: dict[Character, Said]
    vowels: Word = Field(description="a word in capitals without any of these is an acronym")
    words: tuple[Word, ...] = Field(default=(), description="acronyms that do have vowels")
    suffixes: tuple[Word, ...] = Field(default=(), description="endings in small letters")


class Respelling(Config):
    """Words of another script in the letters of the language, by `TextConfig.respell`.

    Of the keys at one place of a word the longest counts. A consonant's letter and a vowel's
    after it become the syllable of both.
    """

    words: dict[Word, Said] = Field(default={}, description="in small letters -> as spoken")
    names: dict[Character, Said] = Field(description="of each letter, for words in capitals")
    letters: dict[Word, Said] = Field(description="letters in small -> as spoken")
    endings: dict[Word, Said] = Field(default={}, description="at the end of a word instead")
    bare: Character | None = Field(
        default=None, description="syllable of no consonant whose vowel gives way to the next"
    )


class Language(Config):
    """One language's writing.

    Punctuation marks are those that follow a word, the strongest first: of several in a row
    the strongest stays.
    """

    name: Word
    code: Word
    letters: Annotated[tuple[Text, ...], AfterValidator(visible)] = Field(
        default=(), description="characters, or ranges such as a-z, beside the syllables'"
    )
    punctuation: Letters
    case: Literal["keep", "lower"] = "keep"
    affixes: Literal["attached", "separate", "listed"] = Field(
        default="separate",
        description="whether a numeral or abbreviation may touch other letters: all, none, those "
        "of `prefixes` and `suffixes`",
    )
    prefixes: tuple[Word, ...] = Field(default=(), exclude_if=absent)
    suffixes: tuple[Word, ...] = Field(default=(), exclude_if=absent)
    replacements: Annotated[dict[Word, Said], BY_LETTER] = Field(
        default={}, description="literal variants -> known text; a-c: x-z is letter by letter"
    )
    drop_marks: bool = Field(
        default=False,
        exclude_if=absent,
        description="leave out combining marks that are not in the alphabet",
    )
    homophones: Annotated[dict[Character, Character], BY_LETTER] = Field(
        default={}, description="letter -> same sound, or ranges of them"
    )
    syllables: Syllables | None = None
    numbers: Numbers | None = None
    abbreviations: dict[Word, Said] = Field(default={}, description="short form -> words")
    acronyms: Acronyms | None = None
    symbols: dict[Word, Said] = Field(default={}, description="mark -> word, where it stands")
    units_before: dict[Word, Said] = Field(
        default={}, description="mark before a number that is said after it, as currencies are"
    )

    units_after: dict[Word, Said] = Field(
        default={}, exclude_if=absent, description="short form right after a number -> words"
    )
    respelling: Respelling | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _within_alphabet(self) -> Self:
        if self.code in NO_LANGUAGES:
            raise ValueError(f"code: {self.code!r} is the name of a token of its own")
        if repeated := [c for c, n in Counter(self.alphabet).items() if n > 1]:
            raise ValueError(f"{''.join(repeated)} is in the alphabet twice")
        if (self.affixes == "listed") != bool(self.prefixes and self.suffixes):
            raise ValueError("affixes: listed needs prefixes and suffixes, and they need it")
        if self.acronyms and self.case != "lower":
            raise ValueError("acronyms: need case: lower, as capitals tell them from words")
        known = {*self.alphabet, " "}
        for table, words in self._spoken().items():
            for word in words:
                spoken = word.lower() if self.case == "lower" else word
                if unknown := "".join(sorted(set(spoken) - known)):
                    raise ValueError(f"{table}: {word!r} has {unknown}, not in the alphabet")
        return self

    @cached_property
    def alphabet(self) -> tuple[str, ...]:
        """Every character of a normalised text but the space: punctuation, then letters."""
        syllables = "".join(row.letters for row in self.syllables.rows) if self.syllables else ""
        return (*self.punctuation, *expand(self.letters), *syllables)

    @cached_property
    def letters_pattern(self) -> str:
        """A pattern of one letter of the alphabet, small or capital."""
        letters = {c for c in self.alphabet if c not in self.punctuation}
        return (
            "[" + "".join(re.escape(c) for c in sorted(letters | {*map(str.upper, letters)})) + "]"
        )

    def _spoken(self) -> Mapping[str, Iterable[str]]:
        """The words of every table that end up in normalised text."""
        plain = (
            "replacements",
            "homophones",
            "abbreviations",
            "symbols",
            "units_before",
            "units_after",
        )
        spoken: dict[str, Iterable[str]] = {key: getattr(self, key).values() for key in plain}
        if names := self.acronyms:
            spoken["acronyms"] = (*names.letter_names.values(), *names.suffixes)
        if r := self.respelling:
            tables = (r.words, r.names, r.letters, r.endings)
            spoken["respelling"] = [word for table in tables for word in table.values()]
        if n := self.numbers:
            scales = (scale.word for scale in n.scales)
            by_rules = literals(n.rules)
            words = (*n.units, *n.tens.values(), *scales, *by_rules, *n.between.values())
            words += (*n.fractions.values(),)
            clock = (c.hour, c.half, c.minutes_before, c.minutes) if (c := n.clock) else ()
            spoken["numbers"] = (*words, *clock, n.minus, n.point, n.range_word, n.phone_plus)
            if n.ordinals:
                spoken["numbers.ordinals"] = n.ordinals.words.values()
        return spoken


def load_language(code_or_path: str | Path) -> Language:
    """The language of a code (``am``) or of a YAML file's path.

    Raises:
        ConfigError: no such language, or the file is not a valid one; names file and key.
    """
    unknown = (
        "language {0} is not known; known: {1}; or name the path of a language's YAML file; "
        "dimts language new CODE --corpus FOLDER drafts one"
    )
    path = data_file(code_or_path, LANGUAGES, unknown)
    return load_config(Language, [path], including=False)


def data_file(code_or_path: str | Path, folder: Path, unknown: str) -> Path:
    """A YAML file by its language's code, or the file of a path.

    That of a code is ours, in `folder`, or a user's own, in a folder of that name where the job
    stands (``languages/ka.yaml``).

    Raises:
        ConfigError: no such code; `unknown`, with the code and those that there are.
    """
    path = Path(code_or_path)
    if path.suffix in FILES:
        return path
    places = (folder, Path(folder.name))
    for place in places:
        if (path := place / f"{code_or_path}.yaml").is_file():
            return path
    codes = ", ".join(sorted({file.stem for place in places for file in place.glob("*.yaml")}))
    raise ConfigError(unknown.format(repr(str(code_or_path)), codes))


def absolute_file(code_or_path: str, folder: Path = LANGUAGES) -> str:
    """A file's path from the root, for processes that stand in another folder; the code of one of
    ours in `folder` as it is."""
    own = Path(folder.name, f"{code_or_path}.yaml")
    if Path(code_or_path).suffix in FILES:
        own = Path(code_or_path)
    elif (folder / own.name).is_file() or not own.is_file():
        return code_or_path
    return os.path.abspath(own)

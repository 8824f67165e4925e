"""Raw text to the letters a voice knows. The language's data file says what becomes of what.

This module and those that it imports need the standard library alone: an exported voice takes them
along (`dimts.export.package`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dimts.core.errors import ConfigError, UserError
from dimts.text.affixed_numbers import affixed_number_reader
from dimts.text.number_forms import number_forms
from dimts.text.numbers import digits_pattern, number_reader, numeral_reader, one_of
from dimts.text.replacing import check_length, replaced
from dimts.text.respelling import Respeller
from dimts.text.short_forms import ShortForms

if TYPE_CHECKING:
    from dimts.text.language import Language
    from dimts.text.normaliser import TextConfig

MAX_PASSES = 8
Rule = Callable[[str], str]


class UnknownCharacters(UserError):
    """A text has characters outside the language's alphabet; `characters` are those."""

    def __init__(self, characters: Iterable[str], language: str, advice: str = "") -> None:
        self.characters = tuple(dict.fromkeys(characters))
        names = ", ".join(
            f"{c!r} (U+{ord(c):04X} {unicodedata.name(c, 'no name')})" for c in self.characters
        )
        super().__init__(f"not in the alphabet of {language}: {names}{advice}")


class Normaliser:
    """Builds normalised text: within the alphabet, single spaces, no spaces at the ends.

    Raises:
        ConfigError: a setting that the language gives no meaning to.
    """

    def __init__(self, language: Language, config: TextConfig) -> None:
        if config.fold_homophones and not language.homophones:
            raise ConfigError(f"text.fold_homophones: {language.name} has no homophone letters")
        if config.respell and not language.respelling:
            raise ConfigError(f"text.respell: {language.name} has no respelling tables")
        self.language = language
        self.config = config
        self._known = frozenset((*language.alphabet, " "))
        self._letters = self._known - {*language.punctuation, " "}
        self._invisible = ("Cc", "Cf", "Mn", "Me") if language.drop_marks else ("Cc", "Cf")
        rules = (
            ShortForms(language) if language.affixes == "listed" else _abbreviations(language),
            _acronyms(language),
            numeral_reader(language.numbers) if language.numbers else None,
            _units_before(language),
            *number_forms(language),
            _numbers(language),
            _literals({mark: f" {word} " for mark, word in language.symbols.items()}),
            Respeller(language) if config.respell else None,
            str.lower if language.case == "lower" else None,
            _literals(language.replacements),
        )
        self._rules: tuple[Rule, ...] = tuple(rule for rule in rules if rule)
        self._homophones = str.maketrans(language.homophones if config.fold_homophones else {})
        marks = re.escape(language.punctuation)
        self._marks = re.compile(rf"\s*([{marks}](?:[{marks}\s]*[{marks}])?)\s*")

    def normalise(self, text: str) -> str:
        """`text` as the voice reads it. Normalised text stays as it is.

        Raises:
            UnknownCharacters: characters that no rule brings into the alphabet.
            UserError: no letter is left.
        """
        # One replacement may complete another's pattern: only a fixed point is idempotent.
        for _ in range(MAX_PASSES):
            before, text = text, self._pass(text)
            if text == before:
                break
        else:
            raise UserError(f"the rules of {self.language.name} never settle on {text!r:.60}")
        if unknown := [c for c in text if c not in self._known]:
            raise UnknownCharacters(unknown, self.language.name, self._advice(unknown))
        if not self._letters.intersection(text):
            raise UserError("the text is empty once normalised: nothing to say")
        return text

    def unexpanded(self, text: str) -> list[str]:
        """What `normalise` reads by its letters alone, as the language's file has no entry for it:
        abbreviations and, where they are respelled, words of another script."""
        found: list[str] = []
        text = self._visible(text)
        for rule in self._rules:
            if isinstance(rule, ShortForms | Respeller):
                found += rule.guessed(text)
            text = rule(text)
        return found

    def _advice(self, unknown: Sequence[str]) -> str:
        if not self.language.numbers and any(c.isdecimal() for c in unknown):
            return "; its file has no number words: add numbers to it, or write digits out"
        tables = self.language.respelling
        plain = (unicodedata.normalize("NFD", c)[0].lower() for c in unknown)
        if not tables or self.config.respell or not tables.names.keys() & plain:
            return ""
        return "; text.respell: true reads them by the language's respelling"

    def _visible(self, text: str) -> str:
        visible = (
            c
            for c in unicodedata.normalize("NFC", text)
            if c in self._known or c.isspace() or unicodedata.category(c) not in self._invisible
        )
        return " ".join("".join(visible).split())

    def _pass(self, text: str) -> str:
        check_length(len(text))
        text = self._visible(text)
        for rule in self._rules:
            text = rule(text)
        text = " ".join(text.translate(self._homophones).split())
        # Of marks in a row the strongest stays, right after a word; none begins a text.
        strength = self.language.punctuation
        text = self._marks.sub(
            lambda run: f"{min(run[1].replace(' ', ''), key=strength.index)} ", text
        )
        return " ".join(text.split()).lstrip(strength + " ")


def _numbers(language: Language) -> Rule | None:
    if language.numbers is None:
        return None
    if language.affixes == "listed":
        return affixed_number_reader(language, language.numbers)
    return number_reader(language.numbers, language.affixes)


def _literals(table: Mapping[str, str]) -> Rule:
    """Replaces each key by its value, longer keys first."""
    pattern = re.compile(one_of(sorted(table, key=len, reverse=True)))
    return lambda text: replaced(pattern, text, lambda match: table[match[0]])


def _abbreviations(language: Language) -> Rule:
    """Expands abbreviations; unless affixes attach, only where no letter touches them."""
    lower = language.case == "lower"
    written: Rule = str.lower if lower else str
    table = {written(key): words for key, words in language.abbreviations.items()}
    flags = re.IGNORECASE if lower else re.NOFLAG

    def bounded(key: str) -> str:
        if language.affixes == "attached":
            return re.escape(key)
        left = r"(?<!\w)" if key[0].isalnum() else ""
        right = r"(?!\w)" if key[-1].isalnum() else ""
        return f"{left}{re.escape(key)}{right}"

    bounds = map(bounded, sorted(table, key=len, reverse=True))
    pattern = re.compile("|".join(bounds) or "(?!)", flags)
    # IGNORECASE also takes letters whose small form is another one (U+017F): leave those.
    return lambda text: replaced(
        pattern, text, lambda match: table.get(written(match[0]), match[0])
    )


def _acronyms(language: Language) -> Rule | None:
    """Spells words in capitals that have no vowel or are listed: DTMF -> dee tee em ef."""
    if not (acronyms := language.acronyms):
        return None
    names = {letter.upper(): name for letter, name in acronyms.letter_names.items()}
    vowels = set(acronyms.vowels.upper())
    letters = re.escape(
        "".join(c + c.upper() for c in language.alphabet if c.isalpha() or c == "'")
    )
    pattern = re.compile(
        rf"(?<![{letters}])([{re.escape(''.join(names))}]+)({one_of(acronyms.suffixes)})?"
        rf"(?![{letters}])"
    )

    def spell(match: re.Match[str]) -> str:
        word, suffix = match[1], match[2] or ""
        if word not in acronyms.words and vowels.intersection(word):
            return match[0]
        return f" {' '.join(names[letter] for letter in word)}{suffix} "

    return lambda text: replaced(pattern, text, spell)


def _units_before(language: Language) -> Rule | None:
    """Moves a mark's word behind its number and scale: $5 million -> 5 million dollars."""
    if not (language.units_before and language.numbers):
        return None
    words, number = language.units_before, digits_pattern(language.numbers)
    scales = one_of(scale.word for scale in language.numbers.scales)
    pattern = re.compile(
        rf"({one_of(words)})\s*({number}(?:[-–]{number})?(?:\s+(?:{scales})(?!\w))?)"
    )
    return lambda text: replaced(pattern, text, lambda match: f"{match[2]} {words[match[1]]}")

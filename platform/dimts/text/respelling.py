"""Words of another script in a language's own letters, by its file's tables."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from dimts.text.numbers import one_of
from dimts.text.replacing import replaced
from dimts.text.short_forms import longest_first

if TYPE_CHECKING:
    from dimts.text.language import Language

MAX_SPELLED = 5
"""Letters of a word in capitals that is spelled; a longer one is read as a word."""


class Respeller:
    """Spells words of the script that the language's tables have the letters of."""

    def __init__(self, language: Language) -> None:
        assert language.respelling is not None
        self._tables = tables = language.respelling
        self._join = _Joiner(language, tables.bare)
        of = {c for c in "".join((*tables.letters, *tables.names)) if c.isalpha()}
        self._alphabet = frozenset(c for letter in of for c in (letter.lower(), letter.upper()))
        plain = f"[{''.join(sorted(self._alphabet))}]"
        # Accents are left out; one that makes a letter of the script is part of the word.
        self._word = re.compile(rf"{plain}+(?:['’]{plain}+)*")
        self._parts = re.compile(
            rf"(?:{one_of(longest_first(tables.endings))})$|{one_of(longest_first(tables.letters))}|."
        )

    def __call__(self, text: str) -> str:
        """The text with such words respelled."""
        return replaced(self._word, self._without_accents(text), lambda m: self._spelled(m[0]))

    def guessed(self, text: str) -> list[str]:
        """Words that are spelled by rule, as no table has them."""
        words = self._word.findall(self._without_accents(text))
        return [word for word in words if word.lower() not in self._tables.words]

    def _spelled(self, word: str) -> str:
        tables, small = self._tables, word.lower().replace("’", "'")
        if (spoken := tables.words.get(small)) is not None:
            return spoken
        names = [tables.names.get(c.lower(), "") for c in word]
        if len(word) == 1 or (word.isupper() and len(word) <= MAX_SPELLED):
            return "".join(names)
        parts = self._parts.finditer(small.replace("'", ""))
        said = [
            tables.endings.get(part[0], tables.letters.get(part[0], ""))
            if part.end() == len(part.string) and part.start()
            else tables.letters.get(part[0], "")
            for part in parts
        ]
        return self._join(said) or "".join(names)

    def _without_accents(self, text: str) -> str:
        """é -> e, where e is a letter of the script that is respelled."""
        return "".join(self._base(c) for c in text)

    def _base(self, character: str) -> str:
        base = unicodedata.normalize("NFD", character)[0]
        return base if base != character and base in self._alphabet else character


class _Joiner:
    """Joins letters; in a syllabary a consonant without a vowel takes that which follows."""

    def __init__(self, language: Language, bare: str | None) -> None:
        syllables = language.syllables
        self._factors = syllables.factors if syllables else {}
        rows = [(row, syllables.series[row.vowels]) for row in syllables.rows] if syllables else []
        self._syllables = {
            (letter, vowel): syllable
            for row, vowels in rows
            for letter in row.letters
            for syllable, vowel in zip(row.letters, vowels, strict=True)
        }
        self._bare = self._factors.get(bare) if bare else None

    def __call__(self, parts: list[str]) -> str:
        joined = ""
        for part in parts:
            if joined and part and joined[-1] == part[0] == part[-1]:
                continue  # a doubled consonant
            joined = joined[:-1] + self._pair(joined[-1:], part[:1]) + part[1:]
        return joined

    def _pair(self, last: str, first: str) -> str:
        """Two letters, or the one of the first's consonant and the second's vowel."""
        one, two = self._factors.get(last), self._factors.get(first)
        if one is None or two is None or self._bare is None:
            return last + first
        if one[1] != self._bare[1] or two[0] != self._bare[0]:
            return last + first
        return self._syllables.get((last, two[1]), last + first)

"""Abbreviations by dots and slashes, with the prefixes and suffixes that a language lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dimts.text.numbers import one_of
from dimts.text.replacing import replaced

if TYPE_CHECKING:
    from dimts.text.language import Language

_JOINER = re.compile(r" ?[./] ?")
_LONGEST_PART = 6
_MARK = r"(?: ?/|\.)"
_BY_DOTS = _MARK + " ?"


class ShortForms:
    """Expands the abbreviations of a language's file; joins the letters of those it lacks.

    The marks of a key stand for each other and for the same with a space after: ``ዓ.ም`` is
    ``ዓ/ም`` and ``ዓ. ም``, too. A key that ends in a slash is followed by the rest of a name. Where
    key and words end in one letter, another syllable of its consonant is a suffix: ``ዶ/ሩ``.
    """

    def __init__(self, language: Language) -> None:
        letter = language.letters_pattern
        prefix, suffix = (one_of(longest_first(a)) for a in (language.prefixes, language.suffixes))
        self._consonants = (
            {letter: names[0] for letter, names in language.syllables.factors.items()}
            if language.syllables
            else {}
        )
        table = language.abbreviations
        self._words = {_plain(key): words for key, words in table.items()}
        self._inflected = {
            (_plain(key)[:-1], self._consonants[key[-1]]): words
            for key, words in table.items()
            if key[-1] == words[-1:] and key[-1] in self._consonants
        }
        keys = "|".join(map(self._pattern, longest_first(table))) or "(?!)"
        end = rf"(?!{_MARK}{letter}(?!{letter}))"  # not the beginning of a longer one
        final_dot = rf"(?:(?:(?<=\.{letter})|(?<=\. {letter}))\.(?!{letter}))?"
        self._known = re.compile(rf"(?<!{letter})((?:{prefix})??)({keys}){end}{final_dot}")
        names = language.respelling.names.values() if language.respelling else ()
        part = rf"(?:{one_of(longest_first(names))}|{letter}|[A-Za-z])"
        any_letter = rf"(?:{letter}|[A-Za-z])"
        before = rf"(?<!{any_letter})(?<![./])((?:{prefix})?)"
        dotted = rf"({part}(?:\.{part})+(?:{suffix})?)(?!{any_letter})"
        dotted += rf"(?:\.(?!{any_letter}))?"
        slashed = rf"({letter}(?:/{letter}{{1,{_LONGEST_PART}}})+)(?![/.]?{letter})"
        self._guessed = (re.compile(before + dotted), re.compile(r"(?<!\d)" + before + slashed))

    def __call__(self, text: str) -> str:
        """The text with its abbreviations in words."""
        text = self._expanded(text)
        for pattern in self._guessed:
            text = replaced(pattern, text, lambda match: match[1] + re.sub("[./]", "", match[2]))
        return text

    def guessed(self, text: str) -> list[str]:
        """Abbreviations of the text that are not in the language's file, as they are written."""
        text = self._expanded(text)
        return [match[2] for pattern in self._guessed for match in pattern.finditer(text)]

    def _expanded(self, text: str) -> str:
        return replaced(self._known, text, lambda match: match[1] + self._spoken(match[2]))

    def _spoken(self, written: str) -> str:
        plain = _plain(written)
        if (words := self._words.get(plain)) is not None:
            return words
        return self._inflected[plain[:-1], self._consonants[plain[-1]]][:-1] + plain[-1]

    def _pattern(self, key: str) -> str:
        """Of a key as it may be written."""
        if key.endswith("/"):
            return re.escape(key) + r"(?=\w\w)"
        parts = [_BY_DOTS if c in "./" else re.escape(c) for c in key]
        consonant = self._consonants.get(key[-1])
        if (_plain(key)[:-1], consonant) in self._inflected:
            same = (letter for letter, name in self._consonants.items() if name == consonant)
            parts[-1] = f"[{''.join(same)}]"
        return "".join(parts)


def longest_first(texts: Iterable[str]) -> list[str]:
    """The texts by falling length, as the first alternative of a pattern is taken."""
    return sorted(texts, key=len, reverse=True)


def _plain(text: str) -> str:
    return _JOINER.sub(".", text)

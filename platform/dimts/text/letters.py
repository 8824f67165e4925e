"""Letters and texts as a language's file may hold them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

LARGEST_ALPHABET = 200_000

Entries = TypeVar("Entries", str, tuple[str, ...])


def _composed(value: Any) -> Any:
    """A text in the composed form (NFC), as those that are normalised."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def expand(letters: Iterable[str]) -> list[str]:
    """``["a-z", "'"]`` -> its characters.

    What is written with a mark of its own also when composed, as Bengali য় and Yoruba ọ̀, is two
    characters, each of which is there once.
    """
    expanded: list[str] = []
    marked: list[str] = []
    for entry in letters:
        if len(expanded) > LARGEST_ALPHABET:
            raise ValueError(f"more than {LARGEST_ALPHABET} characters")
        if len(entry) == 3 and entry[1] == "-" and entry[0] < entry[2]:
            expanded.extend(chr(code) for code in range(ord(entry[0]), ord(entry[2]) + 1))
            continue
        for i, character in enumerate(entry):
            marks = unicodedata.combining(character) and i > 0
            carries = i + 1 < len(entry) and unicodedata.combining(entry[i + 1])
            (marked if marks or carries else expanded).append(character)
    there = set(expanded)
    return [*expanded, *dict.fromkeys(c for c in marked if c not in there)]


def by_letter(table: Any) -> Any:
    """``{"a-c": "x-z"}`` -> an entry for each letter; all others as they are."""
    if not isinstance(table, dict):
        return table
    entries: dict[Any, Any] = {}
    for key, value in table.items():
        ranges = all(isinstance(x, str) and re.fullmatch(r"\w-\w", x) for x in (key, value))
        old, new = (expand([x]) if ranges else [x] for x in (key, value))
        entries |= zip(old, new, strict=True) if len(old) == len(new) else {key: value}
    return entries


def _single(value: str) -> str:
    if len(value) != 1:
        parts = " ".join(f"U+{ord(c):04X}" for c in value) or "none"
        raise ValueError(f"one character is wanted; {value!r} is {len(value)} ({parts}), also when "
                         "composed (NFC): give each an entry of its own")  # fmt: skip
    return value


def visible(letters: Entries) -> Entries:
    """Refuse what no normalised text holds."""
    for character in expand(letters):
        if character.isspace() or unicodedata.category(character) in ("Cc", "Cf"):
            raise ValueError(f"white space or a control character (U+{ord(character):04X})")
    return letters


BY_LETTER = BeforeValidator(by_letter)
_COMPOSED = BeforeValidator(_composed)
Text = Annotated[str, _COMPOSED]
Character = Annotated[str, AfterValidator(_single), _COMPOSED]
Word = Annotated[str, Field(min_length=1, max_length=1000), _COMPOSED]
Said = Annotated[str, Field(max_length=1000), _COMPOSED]
Letters = Annotated[Word, AfterValidator(visible)]
Fraction = Annotated[str, Field(pattern=r"^\+?\d{1,4}/\d{1,4}$")]
Base = Annotated[str, Field(max_length=40, coerce_numbers_to_str=True)]

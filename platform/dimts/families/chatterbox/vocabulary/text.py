"""Text as chatterbox-tts reads it: what users type into the package gives the same ids here."""

from __future__ import annotations

import unicodedata
from functools import cache

from dimts.core.errors import UserError

ENDS = (".", "!", "?", "-", ",", "、", "，", "。", "？", "！")
"""Marks that a text may end with; all others are followed by a full stop."""
REPLACED = {
    "...": ", ",
    "…": ", ",
    ":": ",",
    " - ": ", ",
    ";": ", ",
    "—": "-",
    "–": "-",
    " ,": ",",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
"""In this order."""
OWN_STEP = {
    "he": "vowel signs of dicta-onnx",
    "ja": "hiragana of pykakasi",
    "ru": "stress marks of russian-text-stresser",
    "zh": "Cangjie codes",
}
"""Languages whose texts the package rewrites by other packages or data, which are not here."""


def punctuated(text: str) -> str:
    """A text with the marks that the model knows, single spaces and an end.

    Raises:
        UserError: the text is empty.
    """
    text = " ".join(text.split())
    if not text:
        raise UserError("the text is empty: nothing to say")
    if text[0].islower():
        text = text[0].upper() + text[1:]
    for mark, known in REPLACED.items():
        text = text.replace(mark, known)
    text = text.rstrip(" ")
    return text if text.endswith(ENDS) else f"{text}."


def folded(text: str) -> str:
    """Small letters, taken apart into letters and marks (NFKD), as the multilingual model reads."""
    return unicodedata.normalize("NFKD", text.lower())


@cache
def foldable() -> frozenset[str]:
    """Every character that a folded text can hold; in planes without letters, none changes."""
    characters = map(chr, (*range(0xD800), *range(0xE000, 0x40000)))
    return frozenset(folded("".join(characters)))

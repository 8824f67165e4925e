"""Texts as error rates compare them."""

from __future__ import annotations

import unicodedata


def comparable(text: str) -> str:
    """A text as it is compared: compatibility characters composed (NFKC), lower case, no
    punctuation, symbols or marks of format, single spaces.

    Apostrophes vanish without a space, other punctuation parts words.
    """
    letters = []
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(character)
        if character in "'’ʼ" or kind == "Cf":
            continue
        letters.append(character if kind[0] in "LMN" else " ")
    return " ".join("".join(letters).split())

"""A text without the characters that its language does not have."""

from __future__ import annotations

import unicodedata

from dimts.text.normaliser import UnknownCharacters


def without_unknown(text: str, error: UnknownCharacters) -> tuple[str, list[str]]:
    """What is left of a text that was refused with `error`, and every character left out.

    The error names them as the normaliser has made them: small letters where case is lower. Nothing
    is left if it made them of others.
    """
    text, unknown = unicodedata.normalize("NFC", text), error.characters
    taken = [c for c in text if c in unknown or c.lower() in unknown]
    return ("".join(c for c in text if c not in taken) if taken else ""), taken or list(unknown)

"""A language's tables as JSON, by the names that the rules of `dimts.text` read them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NESTED = ("acronyms", "clock", "numbers", "ordinals", "respelling", "syllables")
ROWS = ("rows", "scales")


class Tables:
    """The values as attributes, such as those of `dimts.text.language.Language`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name in NESTED and value is not None:
                value = Tables(value)
            elif name in ROWS:
                value = [Tables(row) for row in value]
            elif name == "tens":  # JSON has no keys that are numbers
                value = {int(ten): word for ten, word in value.items()}
            setattr(self, name, value)

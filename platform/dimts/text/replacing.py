"""Replacing within bounds, as a stranger's rules may swell a text."""

from __future__ import annotations

import re
from collections.abc import Callable

from dimts.core.errors import UserError

LONGEST = 1_000_000
"""Characters of a text and of what its rules make of it."""


def check_length(length: int) -> None:
    """Raise a `UserError` for a text of more than `LONGEST` characters."""
    if length > LONGEST:
        raise UserError(f"a text of more than {LONGEST} characters, or rules that swell it")


def replaced(pattern: re.Pattern[str], text: str, by: Callable[[re.Match[str]], str]) -> str:
    """``pattern.sub(by, text)``; raises like `check_length` as soon as that is too long."""
    grown = 0

    def within_bounds(match: re.Match[str]) -> str:
        nonlocal grown
        new = by(match)
        grown += len(new) - len(match[0])
        check_length(match.end() + grown)
        return new

    return pattern.sub(within_bounds, text)

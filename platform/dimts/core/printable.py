"""Texts that others made, shown without harm."""

from __future__ import annotations

import re

DRIVES_A_TERMINAL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, among them escape and the ends of lines
    "\u2028\u2029"  # separators of lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of what follows
    "\ufeff\ud800-\udfff]"  # byte-order mark, halves of characters
)


def printable(text: str, longest: int | None = None) -> str:
    r"""`text` on one line, such characters as ``\x1b``; cut off after `longest` characters."""
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}... ({len(text)} characters)"
    return DRIVES_A_TERMINAL.sub(lambda match: ascii(match[0])[1:-1], text)

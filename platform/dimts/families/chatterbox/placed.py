"""Which rows of text `dimts extend` gave to a language: a file beside weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, parse_json, read_bytes

PLACED = "vocabulary.json"


def write_placed(folder: Path, placed: Mapping[str, Any]) -> None:
    """Write what is known of the rows into a folder; nothing if that is nothing."""
    if placed:
        text = json.dumps(placed, ensure_ascii=False, indent=1)
        (folder / PLACED).write_text(text, encoding="utf-8")


def read_placed(folder: Path, n_rows: int) -> Mapping[str, Any]:
    """What a folder says of the `n_rows` rows of text; empty if nothing.

    Raises:
        UserError: the file is damaged, or names rows that there are not.
    """
    file = folder / PLACED
    if not file.is_file():
        return {}
    try:
        placed: dict[str, Any] = parse_json(read_bytes(file, MAX_JSON_BYTES))
        for token, row in placed["rows"].items():
            if type(row) is not int or not 0 <= row < n_rows:
                raise ValueError(f"rows: {token}: {row!r} is none of the {n_rows} rows of text")
        return placed
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not what dimts extend writes: {error}") from error

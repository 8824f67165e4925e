"""Text files that are replaced as a whole."""

from __future__ import annotations

import os

from dimts.storage.paths import AnyPath, StoragePath


def write_text(path: AnyPath, text: str) -> None:
    """Replace a file so that a reader sees the old one or the new one, never a part."""
    if isinstance(path, StoragePath):
        path.write_bytes(text.encode())
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

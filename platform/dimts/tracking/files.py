"""JSON files of the record, replaced as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file so that a reader sees the old one or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    draft.replace(path)

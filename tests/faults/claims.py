"""Who writes into a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dimts.training.ownership import CLAIM


def read_claim(run_dir: Path) -> dict[str, Any] | None:
    """``host`` and ``pid`` of the process that writes into a run's folder, if any ever did."""
    file = run_dir / CLAIM
    claim: dict[str, Any] | None = json.loads(file.read_bytes()) if file.exists() else None
    return claim

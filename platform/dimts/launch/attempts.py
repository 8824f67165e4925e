"""How often a group of workers died without coming further: the limit that ends a run.

Ray Train counts all deaths of a run together, so that a training of days ends with its third lost
machine. What matters is whether it still comes further in between.
"""

from __future__ import annotations

import json
from pathlib import Path

from dimts.core.errors import UserError
from dimts.storage.pointer import read_pointer
from dimts.training.checkpoint import LATEST

ATTEMPTS = "attempts.json"


def forget_attempts(run_dir: Path) -> None:
    """A person starts the run: what was before does not count."""
    (run_dir / ATTEMPTS).unlink(missing_ok=True)


def count_attempt(run_dir: Path, max_failures: int) -> str:
    """Note that a group starts; called by rank 0 before it trains.

    Args:
        run_dir: the run's folder.
        max_failures: deaths without a new checkpoint between them that are put up with.

    Returns:
        That a group died before this one, in a line for people; empty if none did.

    Raises:
        UserError: too many did.
    """
    file, checkpoint = run_dir / ATTEMPTS, read_pointer(run_dir / LATEST)
    before: dict[str, object] = {}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
    died = int(str(before.get("n", 0))) if before.get("checkpoint") == checkpoint else 0
    if died > max_failures:
        raise UserError(
            f"{run_dir}: the workers died {died} times without coming further than "
            f"{checkpoint or 'the start'}; killed without a word they were probably out of memory: "
            "lower training.batch_size or raise training.accumulate"
        )
    draft = file.with_suffix(".partial")
    draft.write_text(json.dumps({"checkpoint": checkpoint, "n": died + 1}), encoding="utf-8")
    draft.replace(file)
    return "the workers died, and were started again" if before else ""

"""Whose a run is: the process that took it up last.

A worker on a node that was given up for dead may go on for seconds, beside the one that was
started in its place. Both compute the same, but two must not write into one folder.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

CLAIM = "claim"


class Superseded(Exception):
    """Another process has taken up this run; this one ends and leaves everything as it is."""


class Claim:
    """Take up a run: whoever did so before finds out at its next `check`.

    Args:
        run_dir: the run's folder, made when missing; all nodes see it.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / CLAIM
        self._token = uuid.uuid4().hex
        run_dir.mkdir(parents=True, exist_ok=True)
        draft = run_dir / f".{CLAIM}.{self._token}"
        try:
            draft.write_text(self._token, encoding="ascii")
            os.replace(draft, self._file)
        finally:
            draft.unlink(missing_ok=True)

    def check(self) -> None:
        """Nothing if the run is still ours.

        Raises:
            Superseded: it is not, or its folder is gone.
        """
        try:
            token = self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            token = ""
        if token != self._token:
            raise Superseded(f"{self._file.parent}: another process goes on with this run")

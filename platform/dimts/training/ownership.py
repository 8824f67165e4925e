"""Whose a run is: the process that took it up last.

A worker on a node that was given up for dead may go on for seconds, beside the one that was
started in its place; two must not write into one folder.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from pathlib import Path

from dimts.storage.files import write_text

CLAIM = "claim"


class RunTakenOver(Exception):
    """Another process has taken up this run; this one ends and leaves everything as it is."""


class Claim:
    """Take up a run, in its folder that all nodes see: whoever did so before finds out at its next
    `check`."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / CLAIM
        ours = {"token": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid()}
        self._text = json.dumps(ours)
        run_dir.mkdir(parents=True, exist_ok=True)
        write_text(self._file, self._text)

    def check(self) -> None:
        """Raise `RunTakenOver` if the run is not ours any more, or its folder is gone."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        if text != self._text:
            raise RunTakenOver(f"{self._file.parent}: another process goes on with this run")

"""Folders that take long to make: of pytest's processes the first makes one, the others wait."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TRACES = {"lock", "claim", "metrics.jsonl", "result.json", "alignments"}
"""Of those who were there: a run whose command is given again, alignments kept for later ones."""


@contextmanager
def shared_folder(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Iterator[Path]:
    """A folder that `make` fills once for all processes of pytest-xdist.

    It is not to be written to: at its end each process looks whether that held.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / name, root / f"{name}.json"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # where `make` failed in another process
            folder.mkdir()
            make(folder)
            made.write_text(json.dumps(contents(folder)), encoding="utf-8")
    yield folder
    before, after = json.loads(made.read_text(encoding="utf-8")), contents(folder)
    changed = {file for file, _ in before.items() ^ after.items()}
    assert not changed, f"tests have changed what others read: {sorted(changed)}"


def contents(folder: Path) -> dict[str, str]:
    """The bytes of each file, but for what those who read there leave behind."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and not TRACES & {file.name, file.parent.name}
    }

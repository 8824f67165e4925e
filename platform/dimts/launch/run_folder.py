"""Whose the copy of a run in object storage is: which start of it, and which machine's folder.

A folder is newer than its copy if it was the last to write there, which the claim in the copy
tells: then it may hold what could not be sent. Where all nodes see the folder itself, a run has no
copy, and its one start is the last.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from dimts.launch.names import START
from dimts.launch.settings import Launch
from dimts.storage.paths import AnyPath, StoragePath
from dimts.training.ownership import CLAIM

NEWEST = ".newest"
"""The claims under which the folder has written, or may have, since it took up the copy."""


def acquire(launch: Launch) -> None:
    """From now on this start of the run is the last; a `StorageError` if nobody answers."""
    if launch.remote:
        (launch.remote / START).write_bytes(launch.start.encode())


def is_last_start(launch: Launch) -> bool:
    """Whether nobody has started the run since; raises like `acquire`."""
    if launch.remote is None:
        return True
    try:
        return (launch.remote / START).read_text() == launch.start
    except FileNotFoundError:
        return False


def is_newest(folder: Path, theirs: str) -> bool:
    """Whether the copy, whose claim is `theirs`, has nothing that the folder lacks."""
    try:
        noted = (folder / NEWEST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return bool(theirs) and theirs in noted


def note_newest(folder: Path, *claims: str) -> None:
    """To be called before the first of these claims is written there."""
    (folder / NEWEST).write_text("\n".join(claims), encoding="utf-8")


def claim_copy(folder: Path, remote: StoragePath) -> str:
    """Write a new claim into the copy, which is this folder's from then on; the claim."""
    claim = uuid.uuid4().hex
    note_newest(folder, claim)
    (remote / CLAIM).write_bytes(claim.encode())
    return claim


def claim_of(folder: AnyPath) -> str:
    """The claim in a folder or in its copy; empty if there is none."""
    try:
        return (folder / CLAIM).read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""

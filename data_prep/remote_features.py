"""Features that go to object storage: made in a folder of this machine, and sent when whole."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from data_prep.arrow_writer import write_atomic
from data_prep.store import SHARD_FILES, WORK_FILES, Store
from dimts.errors import UserError
from dimts.features.manifest import (
    MANIFEST,
    QUARANTINE,
    SUMMARY,
    Manifest,
    parse_manifest,
    read_manifest,
)
from dimts.plain_files import MAX_JSON_BYTES
from dimts.storage.place import Folder, Remote, cache_folder, transfer

SENT = "sent"
"""Which manifest stood there when this machine was last in touch."""


def working_folder(place: Folder) -> Path:
    """The folder of this machine in which the features are made."""
    if isinstance(place, Remote):
        return cache_folder("prepare", place) / place.name
    return place


def fetch_known(place: Folder, folder: Path) -> None:
    """Bring what another machine has made there since, so that it need not be made again.

    Raises:
        UserError: object storage cannot be reached, or holds no features of this format.
    """
    if not isinstance(place, Remote):
        return
    content = _manifest_in(place)
    if content is None or _digest(content) == _sent(folder):
        return  # what is here is as new, and may be newer
    manifest = parse_manifest(content, place / MANIFEST)
    shards = [shard.name for split in manifest.splits.values() for shard in split.shards]
    (folder / MANIFEST).unlink(missing_ok=True)
    for file in folder.glob(SHARD_FILES):
        file.unlink()
    known = [entry.name for entry in (place / Store.WORK).entries() if entry.name in WORK_FILES]
    names = [*shards, *(f"{Store.WORK}/{name}" for name in known)]
    try:
        transfer([partial((place / name).download, folder / name) for name in names])
    except FileNotFoundError as error:
        raise UserError(f"{place}: is being written by another machine; wait for it") from error
    write_atomic(folder / MANIFEST, content)
    write_atomic(folder / Store.WORK / SENT, _digest(content))


def send(place: Folder, folder: Path) -> None:
    """Bring what was made there. No manifest stands meanwhile; shards that are there stay.

    Raises:
        UserError: object storage cannot be reached; the next run sends what was made.
    """
    if not isinstance(place, Remote):
        return
    content = (folder / MANIFEST).read_bytes()
    old, manifest = _manifest_in(place), read_manifest(folder)
    there = {entry.name: entry.size for entry in place.entries()}
    before = _shards(parse_manifest(old, place / MANIFEST)) if old else {}
    shards = _shards(manifest)
    changed = [
        name
        for name, (size, sha256) in shards.items()
        if (size, sha256) != before.get(name) or there.get(name) != size
    ]
    obsolete = [name for name in there if Path(name).match(SHARD_FILES) and name not in shards]
    if old and (changed or obsolete):
        (place / MANIFEST).remove()
    small = [f"{Store.WORK}/{name}" for name in WORK_FILES if (folder / Store.WORK / name).exists()]
    names = [*changed, *small, QUARANTINE, SUMMARY]
    transfer([partial((place / name).upload, folder / name) for name in names])
    transfer([(place / name).remove for name in obsolete])
    (place / MANIFEST).write_bytes(content)
    write_atomic(folder / Store.WORK / SENT, _digest(content))


def send_quarantine(place: Folder, folder: Path) -> None:
    """Of a corpus of which nothing can be used, the reasons."""
    if isinstance(place, Remote):
        (place / QUARANTINE).upload(folder / QUARANTINE)


def _shards(manifest: Manifest) -> dict[str, tuple[int, str]]:
    splits = manifest.splits.values()
    return {shard.name: (shard.n_bytes, shard.sha256) for split in splits for shard in split.shards}


def _manifest_in(place: Remote) -> bytes | None:
    try:
        return (place / MANIFEST).read_bytes(most=MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{place / MANIFEST}: {error}") from error


def _sent(folder: Path) -> str:
    file = folder / Store.WORK / SENT
    return file.read_text(encoding="ascii") if file.exists() else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

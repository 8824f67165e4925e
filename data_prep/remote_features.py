"""Features that go to object storage: made in a folder of this machine, and sent when whole."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import partial
from pathlib import Path

from data_prep.store import WORK_FILES, Store, is_shard, shards_in
from dimts.core.errors import UserError
from dimts.features.cache import OtherShard, fetch_shard
from dimts.features.manifest import (
    MANIFEST,
    QUARANTINE,
    SUMMARY,
    Manifest,
    ShardFacts,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from dimts.storage.files import local_copy, write_atomic
from dimts.storage.paths import Entry, StorageError, StoragePath, transfer

KNOWN = f"{Store.WORK}/known.json"
SMALL = [f"{Store.WORK}/{name}" for name in WORK_FILES]
NS_A_SECOND = 10**9

Stamp = list[str | int]
"""SHA-256 of a file there, its size, and the second in which it was written."""


def fetch_known(place: StoragePath, folder: Path) -> None:
    """Bring what another machine has made there since, so that it need not be made again.

    A shard that is not the one of which the manifest speaks is left out, to be made and sent again.
    Nothing is brought if the manifest cannot be read.

    Raises:
        UserError: object storage cannot be reached, or another machine is writing there.
    """
    found = _manifest_in(place)
    if found is None or _digest(found[0]) == _known(folder)[0]:
        return  # what is here is as new, and may be newer
    content, manifest = found
    there = {entry.name: entry for entry in place.entries()}
    intact: dict[str, Stamp] = {}

    def fetch(shard: ShardFacts) -> None:
        with suppress(OtherShard):
            fetch_shard(place, shard, folder / shard.name)
            if entry := there.get(shard.name):
                intact[shard.name] = _stamp(shard, entry)

    (folder / MANIFEST).unlink(missing_ok=True)
    for file in shards_in(folder):
        file.unlink()
    transfer(
        [partial(fetch, shard) for shard in manifest.shards.values()]
        + [partial(local_copy, place / name, folder / name) for name in SMALL]
    )
    if len(intact) < len(manifest.shards) and _manifest_in(place) != found:
        raise UserError(f"{place}: is being written by another machine; wait for it")
    write_atomic(folder / MANIFEST, content)
    _write_known(folder, content, intact)


def send(place: StoragePath, folder: Path) -> None:
    """Bring what was made there. No manifest stands meanwhile; shards that are there stay.

    Raises:
        UserError: object storage cannot be reached; the next run sends what was made.
    """
    content, shards = (folder / MANIFEST).read_bytes(), read_manifest(folder).shards
    there = {entry.name: entry for entry in place.entries() if "/" not in entry.name}
    intact = {
        name: stamp
        for name, stamp in _known(folder)[1].items()
        if name in there and name in shards and stamp == _stamp(shards[name], there[name])
    }

    def send_shard(shard: ShardFacts) -> None:
        (place / shard.name).upload(folder / shard.name)
        if entry := (place / shard.name).entry():
            intact[shard.name] = _stamp(shard, entry)

    changed = [shard for name, shard in shards.items() if name not in intact]
    obsolete = [name for name in there if is_shard(name) and name not in shards]
    if changed or obsolete:
        (place / MANIFEST).unlink()
    transfer(
        [partial(send_shard, shard) for shard in changed]
        + [partial((place / name).upload, folder / name) for name in (*SMALL, QUARANTINE, SUMMARY)]
    )
    transfer([(place / name).unlink for name in obsolete])
    (place / MANIFEST).write_bytes(content)
    _write_known(folder, content, intact)


def _stamp(shard: ShardFacts, entry: Entry) -> Stamp:
    return [shard.sha256, entry.size, entry.mtime_ns // NS_A_SECOND]


def _manifest_in(place: StoragePath) -> tuple[bytes, Manifest] | None:
    """Nothing, too, if it cannot be read, or is of another format: then it is made anew."""
    try:
        content = manifest_bytes(place)
        return content, parse_manifest(content, place / MANIFEST)
    except StorageError:
        raise
    except UserError:
        return None


def _known(folder: Path) -> tuple[str, dict[str, Stamp]]:
    """What stood there when this machine was last in touch: SHA-256 of the manifest, and the
    shards of which it spoke. Another machine may have written over them."""
    file = folder / KNOWN
    if not file.exists():
        return "", {}
    known = json.loads(file.read_bytes())
    return known["manifest"], known["shards"]


def _write_known(folder: Path, manifest: bytes, shards: dict[str, Stamp]) -> None:
    write_atomic(folder / KNOWN, json.dumps({"manifest": _digest(manifest), "shards": shards}))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

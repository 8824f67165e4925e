"""A machine's copy of features that are in object storage, by fingerprint."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.core.untrusted import MAX_JSON_BYTES
from dimts.features.manifest import AGAIN, MANIFEST, ShardFacts, parse_manifest
from dimts.storage.paths import StoragePath, cache_folder, transfer

WAIT_S = 3600.0
"""How long a process waits for another one of this machine to fetch the same."""


def fetch_features(remote: StoragePath) -> Path:
    """The folder of this machine that holds the set; what is missing in it is fetched first.

    A set that changes gets another folder, and shards that stay the same are not fetched again.

    Raises:
        UserError: there is no such set, its files are not those of its manifest, or the storage
            cannot be reached.
    """
    content = _manifest_of(remote)
    manifest = parse_manifest(content, remote / MANIFEST)
    cache = cache_folder("features")
    folder = cache / hashlib.sha256(content).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", lambda pid: f"{folder}: process {pid} still fetches it", WAIT_S):
        if not (folder / MANIFEST).exists():
            facts = [shard for split in manifest.splits.values() for shard in split.shards]
            transfer([partial(_fetch, remote, shard, cache / "shards", folder) for shard in facts])
            draft = folder / f".{MANIFEST}"
            draft.write_bytes(content)
            os.replace(draft, folder / MANIFEST)
    return folder


def _manifest_of(remote: StoragePath) -> bytes:
    try:
        return (remote / MANIFEST).read_bytes(most=MAX_JSON_BYTES)
    except FileNotFoundError:
        raise UserError(f"{remote}: no such folder of features; run dimts prepare") from None
    except ValueError as error:
        raise UserError(f"{remote / MANIFEST}: cannot be read ({error}); {AGAIN}") from error


def _fetch(remote: StoragePath, shard: ShardFacts, shards: Path, folder: Path) -> None:
    kept = shards / f"{shard.sha256}.arrow"
    if not kept.exists():
        draft = shards / f"{shard.sha256}.{os.getpid()}.draft"
        try:
            (remote / shard.name).download(draft)
            with draft.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != shard.sha256:
                raise UserError(
                    f"{remote / shard.name}: is not the file that the manifest speaks of: "
                    f"dimts prepare writes there now, or {AGAIN}"
                )
            os.replace(draft, kept)
        except FileNotFoundError:
            raise UserError(f"{remote / shard.name}: missing; {AGAIN}") from None
        finally:
            draft.unlink(missing_ok=True)
    link = folder / shard.name
    link.unlink(missing_ok=True)
    os.link(kept, link)

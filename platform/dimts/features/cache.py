"""A machine's copy of features that are in object storage, by fingerprint."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.features.manifest import AGAIN, MANIFEST, ShardFacts, manifest_bytes, parse_manifest
from dimts.storage.files import write_atomic
from dimts.storage.paths import StoragePath, cache_folder, transfer

WAIT_S = 3600.0
"""How long a process waits for another one of this machine to fetch the same."""


class OtherShard(UserError):
    """A shard is missing, or not that of the manifest."""


def fetch_features(remote: StoragePath) -> Path:
    """The folder of this machine that holds the set; what is missing in it is fetched first.

    A set that changes gets another folder, and shards that stay the same are not fetched again.

    Raises:
        UserError: there is no such set, its files are not those of its manifest, or the storage
            cannot be reached.
    """
    content = manifest_bytes(remote)
    shards = parse_manifest(content, remote / MANIFEST).shards.values()
    cache = cache_folder("features")
    folder = cache / hashlib.sha256(content).hexdigest()[:32]
    with locked(folder / ".lock", f"{folder}: process PID still fetches it", WAIT_S):
        if not (folder / MANIFEST).exists():
            link = partial(_link_shard, remote, cache / "shards", folder)
            transfer([partial(link, shard) for shard in shards])
            write_atomic(folder / MANIFEST, content)
    return folder


def fetch_shard(remote: StoragePath, shard: ShardFacts, file: Path) -> None:
    """Copy a shard to a file of this machine.

    Raises:
        OtherShard: it is missing, or not that of the manifest.
        UserError: the storage cannot be reached, or the file not be written.
    """
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    try:
        (remote / shard.name).download(draft)
        with draft.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 != shard.sha256:
            raise OtherShard(
                f"{remote / shard.name}: is not the file that the manifest speaks of: "
                f"dimts prepare writes there now, or {AGAIN}"
            )
        os.replace(draft, file)
    except FileNotFoundError:
        raise OtherShard(f"{remote / shard.name}: missing; {AGAIN}") from None
    finally:
        draft.unlink(missing_ok=True)


def _link_shard(remote: StoragePath, shards: Path, folder: Path, shard: ShardFacts) -> None:
    """Shards of the same content are one file, whichever sets they are in."""
    kept, link = shards / f"{shard.sha256}.arrow", folder / shard.name
    if not kept.exists():
        fetch_shard(remote, shard, kept)
    link.unlink(missing_ok=True)
    os.link(kept, link)

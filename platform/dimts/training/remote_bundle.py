"""Bundles in object storage: found as those of a folder are, and fetched once."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

from dimts.bundle import MANIFEST, PLAIN_NAME, BundleError, read_manifest
from dimts.errors import UserError
from dimts.plain_files import MAX_JSON_BYTES
from dimts.storage.mirror import LINK
from dimts.storage.place import Remote, cache_folder, is_remote, transfer
from dimts.training.checkpoint import BEST


def local_bundle(place: str) -> Path:
    """The folder of the bundle that a setting names: a path, or a place in object storage.

    Raises:
        UserError: see `fetch_bundle`.
    """
    return fetch_bundle(Remote(place)) if is_remote(place) else Path(place)


def find_bundle(place: Remote, links: int = 3) -> Remote:
    """The bundle behind a bundle's own place, a run's (its best) or a link's, as of now.

    Args:
        place: of it.
        links: that are followed at most, one after another.

    Raises:
        UserError: there is none.
    """
    if (place / MANIFEST).entry():
        return place
    names = (place / (BEST + LINK), place.parent / (place.name + LINK))
    for link in names if links else ():
        try:
            return find_bundle(link.parent / link.read_bytes(most=1000).decode(), links - 1)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise UserError(f"{link}: {error}") from error
    raise UserError(f"{place}: no bundle, and no run that has one")


def fetch_bundle(place: Remote) -> Path:
    """The folder of this machine that holds the bundle at a place, see `find_bundle`.

    Raises:
        UserError: there is none, it is damaged, or it cannot be reached.
    """
    remote = find_bundle(place)
    try:
        content = (remote / MANIFEST).read_bytes(most=MAX_JSON_BYTES)
    except FileNotFoundError:
        raise UserError(f"{remote}: no bundle there") from None
    except ValueError as error:
        raise UserError(f"{remote / MANIFEST}: {error}") from error
    folder = cache_folder("bundles") / hashlib.sha256(content).hexdigest()[:32]
    if folder.exists():
        return folder
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        (draft / MANIFEST).write_bytes(content)
        names = read_manifest(draft, verify=False).sha256
        plain = [name for name in names if PLAIN_NAME.fullmatch(name)]
        transfer([partial((remote / name).download, draft / name) for name in plain])
        read_manifest(draft)
        if not folder.exists():  # another process may have been as quick
            draft.rename(folder)
    except (BundleError, FileNotFoundError) as error:
        raise UserError(f"{remote}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder

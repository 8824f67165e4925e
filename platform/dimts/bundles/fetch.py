"""Bundles that lie elsewhere: found in object storage as in a folder, and kept on this machine."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dimts.bundles.bundle import (
    MANIFEST,
    PLAIN_NAME,
    BundleError,
    read_manifest,
    resolve_bundle,
)
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES
from dimts.storage.paths import AnyPath, StoragePath, any_path, cache_folder, transfer


def local_bundle(path: str | AnyPath) -> Path:
    """The folder of this machine that holds the bundle behind a path, see `resolve_bundle`.

    Raises:
        UserError: it is in object storage, and is not there, is damaged, or cannot be reached.
    """
    found = resolve_bundle(any_path(path))
    if not isinstance(found, StoragePath):
        return found
    try:
        content = (found / MANIFEST).read_bytes(most=MAX_JSON_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no bundle, and no run that has one") from None
    except ValueError as error:
        raise UserError(f"{found / MANIFEST}: {error}") from error
    return _kept(content, lambda name, file: (found / name).download(file), str(found))


def keep_bundle(bundle: Path, source: str) -> Path:
    """Copy a bundle to where this machine keeps those that it fetched; its folder there.

    Args:
        bundle: the folder, which may go away afterwards.
        source: what it was fetched from, for errors.

    Raises:
        UserError: it is none, or is damaged.
    """
    try:
        read_manifest(bundle)
    except BundleError as error:
        raise UserError(f"{source}: {error}") from error
    content = (bundle / MANIFEST).read_bytes()
    return _kept(content, lambda name, file: shutil.copyfile(bundle / name, file), source)


def share_bundle(bundle: Path, folder: AnyPath, name: str) -> AnyPath:
    """Copy a bundle to where all machines find it, unless it is there; its place.

    Args:
        bundle: a folder of this machine.
        folder: of such copies.
        name: for people; what tells bundles apart is added to it.

    Raises:
        UserError: it is damaged, or the place cannot be reached.
    """
    names = [*read_manifest(bundle).sha256, MANIFEST]  # last, as a copy without it is none
    place = folder / f"{name}-{_digest((bundle / MANIFEST).read_bytes())[:8]}"
    if isinstance(place, StoragePath):
        if not (place / MANIFEST).entry():
            for file in names:
                (place / file).upload(bundle / file)
        return place
    _appear(place, lambda draft: [shutil.copyfile(bundle / file, draft / file) for file in names])
    return place


def _kept(manifest: bytes, get: Callable[[str, Path], object], source: str) -> Path:
    """The bundle's folder among those that this machine keeps, made if it is not there."""

    def fill(draft: Path) -> None:
        (draft / MANIFEST).write_bytes(manifest)
        names = read_manifest(draft, verify=False).sha256
        plain = [name for name in names if PLAIN_NAME.fullmatch(name)]
        transfer([partial(get, name, draft / name) for name in plain])
        read_manifest(draft)

    folder = cache_folder("bundles") / _digest(manifest)[:32]
    try:
        _appear(folder, fill)
    except (BundleError, FileNotFoundError) as error:
        raise UserError(f"{source}: {error}") from error
    return folder


def _appear(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder, unless it is there: whole or not at all."""
    if folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        fill(draft)
        if not folder.exists():  # another process may have been as quick
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _digest(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()

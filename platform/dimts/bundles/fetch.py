"""Bundles that lie elsewhere: found in object storage as in a folder, and kept on this machine."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from dimts.bundles.bundle import (
    MANIFEST,
    PLAIN_NAME,
    BundleError,
    read_manifest,
    resolve_bundle,
    sha256,
)
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES
from dimts.storage.files import copy_to
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
    """Copy a bundle, which may go away then, to where this machine keeps those that it fetched;
    its folder there.

    Raises:
        UserError: it is none, or is damaged; names `source`, which it was fetched from.
    """
    try:
        read_manifest(bundle)
    except BundleError as error:
        raise UserError(f"{source}: {error}") from error
    content = (bundle / MANIFEST).read_bytes()
    return _kept(content, lambda name, file: shutil.copyfile(bundle / name, file), source)


def share_bundle(bundle: Path, folder: AnyPath, name: str) -> AnyPath:
    """Copy a bundle to where all machines find it, unless it is there; its place, which is named
    by `name` and what tells bundles apart.

    Raises:
        UserError: it is damaged, or the place cannot be reached.
    """
    names = [*read_manifest(bundle).sha256, MANIFEST]  # last, as a copy without it is none
    place = folder / f"{name}-{sha256(bundle / MANIFEST)[:8]}"
    for file in names if not (place / MANIFEST).exists() else ():
        copy_to(bundle / file, place / file)
    return place


def _kept(manifest: bytes, get: Callable[[str, Path], object], source: str) -> Path:
    """The bundle's folder among those that this machine keeps, made if it is not there."""
    folder = cache_folder("bundles") / hashlib.sha256(manifest).hexdigest()[:32]
    try:
        if not folder.exists():
            with drafted(folder) as draft:
                (draft / MANIFEST).write_bytes(manifest)
                names = read_manifest(draft, verify=False).sha256
                plain = [name for name in names if PLAIN_NAME.fullmatch(name)]
                transfer([partial(get, name, draft / name) for name in plain])
                read_manifest(draft)
    except (BundleError, FileNotFoundError) as error:
        raise UserError(f"{source}: {error}") from error
    return folder


def new_folder(out: Path) -> AbstractContextManager[Path]:
    """A folder that has its name once all is written.

    Raises:
        UserError: something is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; name another folder, or remove it")
    return drafted(out)


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """A folder that is renamed to `folder` once all is written, unless another process has been as
    quick."""
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        yield draft
        if not folder.exists() or not any(folder.iterdir()):
            draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)

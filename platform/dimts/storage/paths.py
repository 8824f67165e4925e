"""Where something lies: a folder that this machine sees, or a prefix in object storage.

``s3://BUCKET/PREFIX`` and ``gs://BUCKET/PREFIX`` are reached through `pyarrow.fs`, with the
credentials that the provider's own tools find: environment, files, the role of a machine.
``AWS_ENDPOINT_URL`` names another server that speaks S3.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, cast

import pyarrow.fs as pa_fs
from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import core_schema

from dimts.core.config import fingerprint
from dimts.core.errors import UserError
from dimts.storage.connection import StorageError, filesystem, of_storage, reaching

CACHE = "DIMTS_CACHE"
PART_BYTES = 8 * 2**20

_URI = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])((?:/[^/]+)*)/?")


class Entry(NamedTuple):
    """A file in object storage; its name is relative to the place that was listed."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class StoragePath:
    """A prefix, or a file, in object storage; it is used as a `Path` is, as far as that goes."""

    uri: str

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(cls)

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str | os.PathLike[str]) -> StoragePath:
        return StoragePath(f"{self.uri}/{PurePosixPath(name)}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rsplit("/", 1)[1]

    @property
    def parent(self) -> StoragePath:
        """Without the last part; of a bucket itself."""
        return StoragePath(self.uri.rsplit("/", 1)[0]) if "/" in self.path else self

    def exists(self) -> bool:
        """Whether there is a file here."""
        return self.entry() is not None

    def read_text(self, encoding: str = "utf-8") -> str:
        """A whole file as text."""
        return self.read_bytes().decode(encoding)

    def absolute(self) -> StoragePath:
        """Itself, wherever the current folder is."""
        return self

    @property
    def filesystem(self) -> pa_fs.FileSystem:
        """What reaches it."""
        return filesystem(*self.uri.split("/")[:3])

    @property
    def path(self) -> str:
        """How `filesystem` knows it: bucket and key."""
        return self.uri.split("://", 1)[1]

    def read_bytes(self, start: int = 0, most: int | None = None) -> bytes:
        """A whole file, or what follows its first `start` bytes.

        Raises:
            FileNotFoundError: there is none.
            ValueError: that is more than `most` bytes.
            StorageError: the storage cannot be reached or refuses.
        """
        with reaching(self), self.filesystem.open_input_file(self.path) as file:
            file.seek(start)
            data: bytes = file.read(None if most is None else most + 1)
        if most is not None and len(data) > most:
            raise ValueError(f"larger than {most / 2**20:g} MiB")
        return data

    def write_bytes(self, data: bytes) -> None:
        """Write a whole file, which is seen whole or not at all."""
        with reaching(self), self.filesystem.open_output_stream(self.path) as file:
            file.write(data)

    def download(self, file: Path) -> None:
        """Copy a file from here; it appears in its folder when whole.

        Raises:
            FileNotFoundError: there is none.
            StorageError: the storage cannot be reached or refuses.
            UserError: it cannot be written on this machine.
        """
        draft = file.with_name(f".{file.name}.{os.getpid()}.part")
        with reaching(self, file), self.filesystem.open_input_stream(self.path) as source:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("wb") as target:
                    shutil.copyfileobj(source, target, PART_BYTES)
                os.replace(draft, file)
            finally:
                draft.unlink(missing_ok=True)

    def upload(self, file: Path) -> None:
        """Copy a file to here; it is seen there whole or not at all.

        Raises:
            OSError: the file is missing or cannot be read.
            StorageError: the storage cannot be reached or refuses.
        """
        with file.open("rb") as source, reaching(self):
            target = self.filesystem.open_output_stream(self.path)
            try:
                shutil.copyfileobj(source, target, PART_BYTES)
            except BaseException as error:
                if not of_storage(error):  # to close it ends what is half sent as if it were whole
                    with suppress(OSError, StorageError):
                        target.close()
                        self.unlink()
                raise
            target.close()

    def entry(self) -> Entry | None:
        """The file here, if there is one."""
        with reaching(self):
            info = self.filesystem.get_file_info(self.path)
        if info.type != pa_fs.FileType.File:
            return None
        return Entry(self.name, info.size, info.mtime_ns or 0)

    def entries(self) -> list[Entry]:
        """All files below, however deep, sorted by name; none if there is nothing.

        Raises:
            StorageError: the storage cannot be reached or refuses, or there is no such bucket.
        """
        selector = pa_fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        with reaching(self):
            infos = self.filesystem.get_file_info(selector)
        first = len(self.path) + 1
        return sorted(
            Entry(info.path[first:], info.size, info.mtime_ns or 0)
            for info in infos
            if info.type == pa_fs.FileType.File
        )

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the file here, if there is one."""
        with reaching(self), suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)


def is_remote(text: str) -> bool:
    """Whether it names object storage, rather than a folder or an MLflow model."""
    return text.startswith(("s3://", "gs://"))


def any_path(text: str | os.PathLike[str] | StoragePath) -> AnyPath:
    """The path that a user names; a `UserError` if it is none."""
    try:
        return cast(AnyPath, _any_path(text))
    except ValueError as error:
        raise UserError(f"{text}: {error}") from error


def _any_path(value: Any) -> Any:
    """A path stays one; text is either."""
    if not isinstance(value, str) or "://" not in value:
        return Path(value) if isinstance(value, str) else value
    if "@" in value or "?" in value:
        raise ValueError(
            "a place holds no credentials and no options: set AWS_ACCESS_KEY_ID, "
            "AWS_ENDPOINT_URL and the like in the environment"
        )
    if not _URI.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError("must be a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    return StoragePath(value.rstrip("/"))


AnyPath = Annotated[Path | StoragePath, BeforeValidator(_any_path), PlainSerializer(str, str)]
"""A folder or file that this machine sees, or one in object storage; also the type of a setting."""


def folder_here(place: AnyPath, kind: str, role: str = "") -> Path:
    """The folder itself, or where this machine keeps what it has of one in object storage."""
    return place if isinstance(place, Path) else cache_folder(kind, place) / role / place.name


def require_local(path: AnyPath, why: str) -> Path:
    """The path; a `UserError` says `why` one in object storage does not do."""
    if isinstance(path, StoragePath):
        raise UserError(f"{path}: {why}; name a folder that this machine and all nodes see")
    return path


def cache_folder(kind: str, *of: Any) -> Path:
    """Where this machine keeps what can be had again, such as ``features`` `of` a fingerprint."""
    root = os.environ.get(CACHE) or Path.home() / ".cache" / "dimts"
    return Path(root).absolute() / kind / (fingerprint(*map(str, of)) if of else "")

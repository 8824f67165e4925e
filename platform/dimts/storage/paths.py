"""Where something lies: a folder that this machine sees, or a prefix in object storage.

``s3://BUCKET/PREFIX`` and ``gs://BUCKET/PREFIX`` are reached through `pyarrow.fs`, with the
credentials that the provider's own tools find: environment, files, the role of a machine.
``AWS_ENDPOINT_URL`` names another server that speaks S3.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, cast

import pyarrow.fs as pa_fs
from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import core_schema

from dimts.core.config import fingerprint
from dimts.core.errors import UserError

CACHE = "DIMTS_CACHE"
N_THREADS = 8
"""Files on their way at a time: what holds them up is the distance, not this machine."""
PART_BYTES = 8 * 2**20
TIMEOUT_S = 5.0
"""Of a connection, and of each wait for the next bytes."""
ATTEMPTS = 3

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

    def is_dir(self) -> bool:
        """Object storage has no folders."""
        return False

    def read_text(self, encoding: str = "utf-8") -> str:
        """A whole file as text."""
        return self.read_bytes().decode(encoding)

    def absolute(self) -> StoragePath:
        """Itself, wherever the current folder is."""
        return self

    @property
    def filesystem(self) -> pa_fs.FileSystem:
        """What reaches it."""
        return _filesystem(*self.uri.split("/")[:3])

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
                if not _of_storage(error):  # to close it ends what is half sent as if it were whole
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


class StorageError(UserError):
    """Object storage cannot be reached, or refuses."""


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


@contextmanager
def reaching(place: StoragePath, file: Path | None = None) -> Iterator[None]:
    """Say what object storage has against us, in one line.

    Raises:
        StorageError: in place of its `OSError`s, but for that of a missing file.
        UserError: in place of this machine's, such as of a full disk, if they are about `file`.
    """
    try:
        yield
    except OSError as error:
        if _of_storage(error):
            why = " ".join(str(error).split()).split(" (Request ID")[0][:300]
            raise StorageError(
                f"{place}: {why}; look at the bucket's name, the credentials, the region and, if "
                "it is another server's, AWS_ENDPOINT_URL"
            ) from error
        if file is None or isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error


def _of_storage(error: BaseException) -> bool:
    """Whether an error is the storage's; those of the system have a number."""
    return isinstance(error, OSError) and error.errno is None


def transfer(jobs: list[Any]) -> None:
    """Call functions without arguments, several at a time; the first that fails is raised.

    Then, and when this is interrupted, those that have not begun are left out.
    """
    pool = ThreadPoolExecutor(N_THREADS)
    try:
        for done in as_completed([pool.submit(job) for job in jobs]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def cache_folder(kind: str, *of: Any) -> Path:
    """Where this machine keeps what can be had again, such as ``features`` `of` a fingerprint."""
    root = os.environ.get(CACHE) or Path.home() / ".cache" / "dimts"
    return Path(root).absolute() / kind / (fingerprint(*map(str, of)) if of else "")


@lru_cache
def _filesystem(scheme: str, _: str, bucket: str) -> pa_fs.FileSystem:
    try:
        if scheme == "gs:":
            limit = timedelta(seconds=ATTEMPTS * TIMEOUT_S)
            return pa_fs.GcsFileSystem(retry_time_limit=limit)
        # Whoever names another server says himself where a bucket is, or it does not matter.
        other = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return pa_fs.S3FileSystem(
            region=None if other else pa_fs.resolve_s3_region(bucket),
            endpoint_override=other,
            connect_timeout=TIMEOUT_S,
            request_timeout=TIMEOUT_S,
            retry_strategy=pa_fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            allow_delayed_open=True,  # a small file is one request, not three
        )
    except (OSError, ValueError) as error:
        raise StorageError(f"{scheme}//{bucket}: {' '.join(str(error).split())[:300]}") from error

"""What reaches object storage, what it has against us, and several transfers at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.fs as pa_fs

from dimts.core.errors import UserError

N_THREADS = 8
"""Files on their way at a time: what holds them up is the distance, not this machine."""
TIMEOUT_S = 5.0
"""Of a connection, and of each wait for the next bytes."""
ATTEMPTS = 3


class StorageError(UserError):
    """Object storage cannot be reached, or refuses."""


@contextmanager
def reaching(place: object, file: Path | None = None) -> Iterator[None]:
    """Say what object storage has against us, in one line.

    Raises:
        StorageError: in place of its `OSError`s, but for that of a missing file.
        UserError: in place of this machine's, such as of a full disk, if they are about `file`.
    """
    try:
        yield
    except OSError as error:
        if of_storage(error):
            why = " ".join(str(error).split()).split(" (Request ID")[0][:300]
            raise StorageError(
                f"{place}: {why}; look at the bucket's name, the credentials, the region and, if "
                "it is another server's, AWS_ENDPOINT_URL"
            ) from error
        if file is None or isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error


def of_storage(error: BaseException) -> bool:
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


@lru_cache
def filesystem(scheme: str, _: str, bucket: str) -> pa_fs.FileSystem:
    """Of a bucket; raises a `StorageError` if there is none."""
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

"""Recordings inside Parquet files, as Hugging Face stores them: ``FILE.parquet#ROW`` names one."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dimts.core.untrusted import open_regular

MAX_GROUP_BYTES = 2 << 30
"""Of a row group, which is read as a whole."""

_MEMBER = re.compile(r"(.+\.parquet)#(\d{1,12})")


def split_member(audio: str) -> tuple[str, int] | None:
    """File and row (from 0) of a recording in a Parquet file; None: it is a file of its own."""
    match = _MEMBER.fullmatch(audio)
    return (match[1], int(match[2])) if match else None


def container(audio: str) -> str:
    """The file that a recording is, or is in."""
    found = split_member(audio)
    return found[0] if found else audio


def audio_column(schema: pa.Schema) -> str | None:
    """The column with the bytes of recordings: of structs with a field `bytes`, or of binaries."""
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    binary = (pa.types.is_binary, pa.types.is_large_binary)
    return next((str(f.name) for f in schema if any(is_one(f.type) for is_one in binary)), None)


def leaf(schema: pa.Schema, column: str) -> str:
    """The path of the bytes of a column of `audio_column` in the file."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


class RowGroup:
    """The recordings of one row group, held while its rows are read one after the other."""

    def __init__(self) -> None:
        self._key: object = None
        self._first, self._bytes = 0, pa.chunked_array([], pa.binary())

    def read(self, key: object, open_file: Callable[[], pq.ParquetFile], row: int) -> bytes:
        """The bytes of the recording in a row.

        Args:
            key: changes when the file does.
            open_file: is called if the row is in none of the group that is held.
            row: from 0.

        Raises:
            OSError: there is no such row, or none can be read.
        """
        if (
            self._key is None
            or key != self._key
            or not self._first <= row < self._first + len(self._bytes)
        ):
            try:
                self._load(open_file(), row)
            except pa.ArrowException as error:
                raise OSError(errno.EIO, f"is no Parquet that can be read: {error}") from error
            self._key = key
        data = self._bytes[row - self._first].as_py()
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "this row holds no recording")
        return bytes(data)

    def _load(self, file: pq.ParquetFile, row: int) -> None:
        self._key = None
        column = audio_column(file.schema_arrow)
        if column is None:
            raise FileNotFoundError(errno.ENOENT, "no column holds recordings")
        first = 0
        for group in range(file.metadata.num_row_groups):
            facts = file.metadata.row_group(group)
            if row < first + facts.num_rows:
                if facts.total_byte_size > MAX_GROUP_BYTES:
                    detail = (
                        f"row group of {facts.total_byte_size} bytes, at most {MAX_GROUP_BYTES}"
                    )
                    raise OSError(errno.EFBIG, detail)
                path = leaf(file.schema_arrow, column)
                table = file.read_row_group(group, columns=[path], use_threads=False)
                values = table.column(0).combine_chunks()
                values = values.field("bytes") if pa.types.is_struct(values.type) else values
                self._first, self._bytes = first, values
                return
            first += facts.num_rows
        raise FileNotFoundError(errno.ENOENT, f"has {first} rows")


@contextmanager
def as_file(data: bytes) -> Iterator[int]:
    """Descriptor of a file with these bytes, which has no name."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


@contextmanager
def opened_recording(folder: Path, audio: str) -> Iterator[int]:
    """Descriptor of a recording in a folder: a file of its own, or a row of a Parquet file.

    Raises:
        OSError: it is missing, or cannot be read.
    """
    found = split_member(audio)
    with open_regular(folder / (found[0] if found else audio)) as descriptor:
        if not found:
            yield descriptor
            return
        with open(descriptor, "rb", closefd=False) as file:
            data = RowGroup().read(None, lambda: pq.ParquetFile(file), found[1])
    with as_file(data) as member_descriptor:
        yield member_descriptor

"""The folder of a corpus as readers see it: names, tables line by line, nothing outside."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from data_prep.recordings import Listing, at_hand, root_of
from dimts.core.errors import UserError
from dimts.core.untrusted import NotAFile
from dimts.features.config import CorpusConfig

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

MAX_BYTES = 1 << 30
"""Of a table, after decompression: ten million rows."""
MAX_LINE_BYTES = 1 << 20
"""Of a row: more than an hour of speech."""
SAMPLED_ROWS = 1000
"""That are looked at to tell what a column holds."""

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class CorpusFolder:
    """A corpus in a folder or in object storage.

    Attributes:
        config: the section `corpus`.
        root: where it is; the real path of a folder.
        notes: lines for the summary: what a reader took for what.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, config: CorpusConfig) -> None:
        self.config = config
        self.notes: list[str] = []
        home = root_of(config.path).real("")
        if home and not home.is_dir():
            raise UserError(f"{config.path}: no such corpus folder; set corpus.path")
        self.root = root_of(home or config.path)
        self.listing = lru_cache(maxsize=None)(self.root.listing)

    def note(self, label: str, text: str) -> None:
        """Add a line to the summary, once."""
        line = f"{label:<9} {text}"
        if line not in self.notes:
            self.notes.append(line)

    @cached_property
    def top(self) -> Listing:
        """What lies in the corpus folder itself."""
        return self.listing("")

    def tables(self, *suffixes: str, depth: int = 0) -> list[str]:
        """Names of files with such an ending, those of the corpus folder first.

        Args:
            suffixes: lower case, with the dot.
            depth: levels of folders that are searched below it.
        """
        found, level = [], [""]
        for _ in range(depth + 1):
            below = []
            for folder in level:
                try:
                    names = self.listing(folder)
                except PermissionError:
                    continue
                start = f"{folder}/" if folder else ""
                found += [start + n for n in names.files if n.lower().endswith(suffixes)]
                below += [start + n for n in names.folders if not n.startswith(".")]
            level = below
        return found

    def named(self) -> list[str]:
        """Files that `corpus.tables` names."""
        return [name for pattern in self.config.tables for name in self.matching(pattern)]

    def matching(self, pattern: str) -> list[str]:
        """Files that a pattern of `corpus.tables` names: itself, or `*` and `**` in it."""
        if not any(sign in pattern for sign in "*?["):
            return [pattern]
        depth = 8 if "**" in pattern else pattern.count("/")
        suffix = PurePosixPath(pattern).suffix.lower()
        found = self.tables(suffix if "*" not in suffix else "", depth=depth)
        return [name for name in found if _full_match(name, pattern)]

    def check_inside(self, name: str) -> None:
        """Refuse a table that is a link out of the corpus folder, with a `UserError`."""
        real, home = self.root.real(name), self.root.real("")
        if real and home and not real.is_relative_to(home):
            raise UserError(
                f"{self.config.path / name}: is a link to {real}, out of the corpus folder; "
                "copy it there"
            )

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Descriptor of a table.

        Raises:
            UserError: it is missing, too large, or leads out of the corpus folder.
        """
        table = self.config.path / name
        self.check_inside(name)
        try:
            with (
                at_hand(self.root, [name], MAX_BYTES) as open_table,
                open_table(name) as (descriptor, stamp),
            ):
                if stamp.size > MAX_BYTES:
                    raise UserError(
                        f"{table}: has {stamp.size} bytes, at most {MAX_BYTES}; split the corpus"
                    )
                yield descriptor
        except FileNotFoundError:
            raise UserError(f"{table}: no such file; corpus.tables names the table") from None
        except NotAFile as error:
            raise UserError(f"{table}: {error.strerror}") from None
        except OSError as error:
            raise UserError(f"{table}: cannot be read: {error.strerror or error}") from error

    def lines(self, name: str) -> Iterator[bytes]:
        """Lines of a table, of one that is too long its beginning; ends are those of any system.

        A table whose name ends in `.gz` is decompressed.
        """
        with self.opened(name) as descriptor:
            if not name.endswith(".gz"):
                self._check_encoding(name, descriptor)
            with open(descriptor, "rb", closefd=False) as file:
                packed = name.endswith(".gz")
                plain = io.BufferedReader(_Unpacked(file)) if packed else file
                # Latin-1 keeps each byte; text mode knows all ends of lines.
                text = io.TextIOWrapper(plain, encoding="latin-1")
                try:
                    while line := text.readline(MAX_LINE_BYTES + 1):
                        yield line.encode("latin-1")
                        while len(line) > MAX_LINE_BYTES and not line.endswith("\n"):
                            line = text.readline(MAX_LINE_BYTES + 1)
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise UserError(
                        f"{self.config.path / name}: cannot be decompressed: {error}"
                    ) from error

    def head(self, name: str, n_lines: int = SAMPLED_ROWS) -> list[str]:
        """The first lines that are not blank, as far as they are text; none if it is no table."""
        try:
            lines = [line for line in islice(self.lines(name), n_lines) if line.strip()]
        except UserError:
            return []
        return [line.decode(self.config.encoding, "replace").rstrip("\n") for line in lines]

    def _check_encoding(self, name: str, descriptor: int) -> None:
        """Refuse UTF-16; leaves the position behind a byte-order mark."""
        start = os.read(descriptor, 4)
        if start.startswith(_UTF16_BOMS) or b"\0\0" in (start[::2], start[1::2]):
            raise UserError(f"{self.config.path / name}: is UTF-16; save it as UTF-8")
        os.lseek(descriptor, len(_UTF8_BOM) if start.startswith(_UTF8_BOM) else 0, os.SEEK_SET)


class _Unpacked(io.RawIOBase):
    """A gzip stream of which no more than `MAX_BYTES` are read: a small file may hold terabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._source, self._left = gzip.GzipFile(fileobj=file), MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        data = self._source.read(len(view))
        self._left -= len(data)
        if self._left < 0:
            raise zlib.error(f"more than {MAX_BYTES} bytes")
        view[: len(data)] = data
        return len(data)


def _full_match(name: str, pattern: str) -> bool:
    """`*` within a part of a path, `**` for any number of parts."""
    parts, wanted = PurePosixPath(name).parts, PurePosixPath(pattern).parts
    if not wanted:
        return not parts
    if wanted[0] == "**":
        rest = "/".join(wanted[1:])
        return any(_full_match("/".join(parts[n:]), rest) for n in range(len(parts) + 1))
    return bool(parts) and (
        PurePosixPath(parts[0]).match(wanted[0])
        and _full_match("/".join(parts[1:]), "/".join(wanted[1:]))
    )

"""Files and texts that others made: read within bounds, shown without harm, and never run.

A few bytes of YAML can stand for terabytes (aliases of aliases), and brackets can be deeper than
any program follows. Whatever is wrong with such a file is a `ValueError` of one line.
"""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dimts.core.errors import UserError
from dimts.core.printable import DRIVES_A_TERMINAL as DRIVES_A_TERMINAL
from dimts.core.printable import printable as printable

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 16 * 2**20
MAX_WRITTEN_OUT = 4 * 2**20
"""Characters and values of a YAML text in which each alias is replaced by what it stands for."""
MAX_DEPTH = 50  # lists and sections within each other
MAX_NUMBER = 400
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_bytes(path: Path | int, most: int) -> bytes:
    """A whole file, by its path or its descriptor.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `most` bytes.
    """
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"larger than {most / 2**20:g} MiB")
    return data


def read_text(file: Path) -> str:
    """A text in UTF-8, which may be packed as ``.gz`` or ``.xz``.

    Raises:
        UserError: it cannot be read.
    """
    open_text: Any = {".gz": gzip.open, ".xz": lzma.open}.get(file.suffix, open)
    try:
        with open_text(file, "rt", encoding="utf-8-sig") as stream:
            return str(stream.read())
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from error


def inside(folder: Path, name: str) -> Path:
    """A regular file of a folder; links are followed as long as they stay in it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is somewhere else, or no regular file: a pipe would never end.
    """
    path = folder / name
    try:
        real, home = path.resolve(strict=True), folder.resolve()
    except RuntimeError as error:  # a link to itself
        raise ValueError(f"{name} is a link to itself") from error
    if not real.is_relative_to(home):
        raise ValueError(f"{name} leads out of the folder")
    if not real.is_file():
        raise ValueError(f"{name} is not a regular file")
    return path


def parse_json(data: bytes) -> Any:
    """The values of a JSON text.

    Raises:
        ValueError: one line that says what is wrong with it.
    """
    try:
        values = json.loads(data)
        level = [values]
        for _ in range(MAX_DEPTH):
            level = [part for value in level for part in _inside(value)]
        if level:
            raise RecursionError
        # Refuses numbers that are none or infinite, and halves of characters.
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except RecursionError:
        raise ValueError(f"deeper than {MAX_DEPTH} levels") from None
    return values


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def parse_yaml(text: str) -> Any:
    """The values of a YAML text, whose keys and values JSON could hold, but for dates.

    Raises:
        ValueError: one line that says what is wrong with it.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _written_out(node, {})
        values = loader.construct_document(node) if node else None
        json.dumps(values, default=str)
    except RecursionError:
        raise ValueError(f"deeper than {MAX_DEPTH} levels") from None
    except Exception as error:  # its constructors let whatever they meet through
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return values


def _written_out(node: yaml.Node | None, sizes: dict[int, int], depth: int = 0) -> int:
    """Characters and values of a node in which each alias is replaced by what it stands for.

    Args:
        node: with aliases as the same nodes.
        sizes: of the nodes seen before, by their identity.
        depth: of the nodes around it.
    """
    if node is None or id(node) in sizes:
        return sizes.get(id(node), 0)
    line = node.start_mark.line + 1
    sizes[id(node)] = 1
    if depth == MAX_DEPTH:
        raise ValueError(f"deeper than {MAX_DEPTH} levels at line {line}")
    if isinstance(node, yaml.ScalarNode):
        if _NO_TEXT.search(node.value):
            raise ValueError(f"a character that is no text at line {line}")
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER:
            raise ValueError(f"a number of {len(node.value)} characters at line {line}")
        sizes[id(node)] += len(node.value)
    else:
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value], line)
            parts = [part for pair in node.value for part in pair]
        sizes[id(node)] += sum(_written_out(part, sizes, depth + 1) for part in parts)
    if sizes[id(node)] > MAX_WRITTEN_OUT:
        raise ValueError(f"larger than allowed, aliases written out, at line {line}")
    return sizes[id(node)]


def _check_keys(keys: list[yaml.Node], line: int) -> None:
    """Refuse a key that is given twice, of which YAML would ignore the first."""
    scalars = [(k.tag, k.value) for k in keys if isinstance(k, yaml.ScalarNode)]
    for (tag, key), n in Counter(scalars).items():
        if n > 1 and not tag.endswith(":merge"):
            raise ValueError(f"key {key!r} is given twice in the section at line {line}")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFile(OSError):
    """A folder, pipe, socket or device stands where a file should; `strerror` says which."""

    def __init__(self, mode: int) -> None:
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        super().__init__(errno.EINVAL, f"is {kind}, not a file")


@contextmanager
def open_regular(path: str | Path) -> Iterator[int]:
    """Descriptor of a regular file, to read from.

    It is looked at after it was opened, and opening does not wait for a pipe's other end: what is
    put in its place meanwhile can neither block nor feed the reader without end.

    Raises:
        NotAFile: it is something else.
        OSError: it is missing or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:  # NUL, or half a character
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise NotAFile(os.stat(path).st_mode) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotAFile(mode)
        yield descriptor
    finally:
        os.close(descriptor)

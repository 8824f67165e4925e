"""Files that a stranger may have written: read within bounds, and nothing in them is run.

A few bytes of YAML can stand for terabytes (aliases of aliases), and brackets can be deeper than
any program follows. Whatever is wrong with such a file is a `ValueError` of one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 16 * 2**20
MAX_WRITTEN_OUT = 4 * 2**20
"""Characters and values of a YAML text in which each alias is replaced by what it stands for."""
MAX_DEPTH = 50  # lists and sections within each other
MAX_NUMBER = 400
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than `most` bytes.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"larger than {most / 2**20:g} MiB")
    return data


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
    except RecursionError:
        raise ValueError(f"deeper than {MAX_DEPTH} levels") from None
    level = [values]
    for _ in range(MAX_DEPTH):
        level = [part for value in level for part in _inside(value)]
    if level:
        raise ValueError(f"deeper than {MAX_DEPTH} levels")
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half a character, which is no text") from None
    except ValueError:
        raise ValueError("a number that is none, or is infinite") from None
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
        values = yaml.load(text, _Loader)
        json.dumps(values, default=str)
    except Exception as error:  # its constructors let whatever they meet through
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return values


class _Loader(yaml.SafeLoader):
    """Safe and bounded; refuses a key that is given twice, of which YAML would ignore the first."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0
        self._size = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line: int = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ValueError(f"the alias at line {line} is inside what it names")
            self._grow(self._sizes[id(node)], line)
            return node
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"deeper than {MAX_DEPTH} levels at line {line}")
        before = self._size
        node = super().compose_node(parent, index)
        self._grow(1, line)
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, line)
            self._grow(len(node.value), line)
        self._sizes[id(node)] = self._size - before
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = node.start_mark.line + 1
                raise ValueError(f"key {key!r} is given twice in the section at line {line}")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def _grow(self, size: int, line: int) -> None:
        self._size += size
        if self._size > MAX_WRITTEN_OUT:
            raise ValueError(f"larger than allowed, aliases written out, at line {line}")

    def _check_scalar(self, node: yaml.ScalarNode, line: int) -> None:
        if _NO_TEXT.search(node.value):
            raise ValueError(f"a character that is no text at line {line}")
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER:
            raise ValueError(f"a number of {len(node.value)} characters at line {line}")

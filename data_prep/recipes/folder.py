"""What recipes share: reading texts, and an LJSpeech folder that is made or replaced as a whole."""

from __future__ import annotations

import gzip
import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimts.core.errors import UserError


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


@contextmanager
def new_corpus(out: Path, is_ours: bool) -> Iterator[Path]:
    """A folder with an empty `wavs/`, which takes the place of `out` if the block ends well.

    Raises:
        UserError: `out` is neither ours, nor missing or empty.
    """
    if out.exists() and not is_ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: holds something else; name another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as workshop:
        new = Path(workshop, "new")
        (new / "wavs").mkdir(parents=True)
        yield new
        if out.exists():
            out.rename(Path(workshop, "old"))
        new.rename(out)

"""An LJSpeech folder that is made or replaced as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dimts.core.errors import UserError


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

"""The LJSpeech folder that a recipe makes: it appears, or is replaced, as a whole."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dimts.core.errors import UserError


@contextmanager
def new_corpus(out: Path, is_ours: bool) -> Iterator[Path]:
    """A folder with an empty `wavs/`, which takes the place of `out` if the block ends well.

    Args:
        out: the corpus's folder.
        is_ours: whether what is there may be replaced; an empty folder always may.

    Raises:
        UserError: it may not.
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


def write_wav(file: Path, samples: bytes, rate: int) -> float:
    """Write mono samples of 16 bits, little-endian, as WAV; their length in seconds."""
    with wave.open(str(file), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate)
        stream.writeframes(samples)
    return len(samples) / 2 / rate

"""Reading a recording by its path, as data preparation reads it."""

from __future__ import annotations

from pathlib import Path

from dimts.audio.decoded import MAX_SECONDS
from dimts.audio.files import read_audio
from dimts.audio.mel import Float32Array
from dimts.core.untrusted import open_regular


def read_recording(
    path: str | Path, sample_rate: int, max_seconds: float = MAX_SECONDS
) -> Float32Array:
    """Mono float32 [n_samples] at `sample_rate`; raises like `read_audio` and `open_regular`."""
    with open_regular(path) as descriptor:
        return read_audio(descriptor, sample_rate, max_seconds)

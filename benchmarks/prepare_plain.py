"""The preparation with the plainest pool of processes: what `prepare.py` is measured against.

``prepare_plain.py WORKERS --config VOICE.yaml --set ...``: `jobs/prepare.py` whose recordings a
`ProcessPoolExecutor` of the standard library extracts, by the same `extract_chunk`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.recordings import Root
from data_prep.utterance import Segment
from dimts.features.config import PrepareConfig

CHUNK = 32


def main() -> None:
    from data_prep import pipeline
    from dimts.commands import prepare

    workers = int(sys.argv.pop(1))
    setattr(pipeline, "extract_all", partial(extract_plainly, workers))  # noqa: B010
    prepare.main()


def extract_plainly(
    workers: int,
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Iterator[Path]:
    """`data_prep.engine.extract_all` without any thought."""
    chunks = [segments[first : first + CHUNK] for first in range(0, len(segments), CHUNK)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(partial(_extract, root=root, settings=settings, folder=folder), chunks)


def _extract(
    segments: Sequence[Segment], root: Root, settings: ExtractSettings, folder: Path
) -> Path:
    return extract_chunk(root, segments, settings, folder)


if __name__ == "__main__":
    main()

"""Who extracts: this process, or Ray Data on all CPUs. Both run `extract_chunk`."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.config import PrepareConfig
from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.recordings import Root, stamp_of
from dimts.errors import UserError
from dimts.own_ray import prepare_own_ray

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

# Starting Ray and its workers costs about 10 s, in which a core extracts hours of speech. Only
# the order of magnitude matters here.
RAY_PAYS_FROM_BYTES = 1_000_000_000
GO_ON = "give the same command again, it goes on where it stopped"


def extract_all(
    root: Root, audios: Sequence[str], settings: ExtractSettings, prepare: PrepareConfig
) -> Generator[bytes, None, None]:
    """Extract recordings in chunks, in no fixed order; each is an Arrow file in bytes.

    To be closed, as it may hold a Ray of its own.

    Args:
        root: the corpus.
        audios: recordings, relative to it.
        settings: what to make of them.
        prepare: engine, workers, size of a chunk.
    """
    if not audios:
        return
    if _use_ray(root, audios, prepare):
        yield from _extract_with_ray(root, audios, settings, prepare)
        return
    for first in range(0, len(audios), prepare.chunk):
        yield extract_chunk(root, audios[first : first + prepare.chunk], settings)


def _use_ray(root: Root, audios: Sequence[str], prepare: PrepareConfig) -> bool:
    if prepare.engine != "auto":
        return prepare.engine == "ray"
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return True
    n_bytes = 0
    for audio in audios:
        try:
            n_bytes += stamp_of(root, audio).size
        except OSError:  # extraction will say what is wrong with it
            continue
        if n_bytes >= RAY_PAYS_FROM_BYTES:
            return True
    return False


def _extract_with_ray(
    root: Root, audios: Sequence[str], settings: ExtractSettings, prepare: PrepareConfig
) -> Iterator[bytes]:
    """Tasks on all CPUs; only what is in flight is in memory. A worker that dies is replaced."""
    if isinstance(root, Path):
        root = root.absolute()  # workers have their own current directory
    with _last_words(), _ray(prepare.workers):
        import ray

        rows = ray.data.from_items(
            [{"audio": audio} for audio in audios],
            override_num_blocks=math.ceil(len(audios) / prepare.chunk),
        )
        chunks = rows.map_batches(
            partial(_extract_batch, root=root, settings=settings),
            batch_size=prepare.chunk,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=prepare.workers),
        )
        with _one_line_if_ray_ends():
            for row in chunks.iter_rows():
                yield row["chunk"]


def _extract_batch(
    batch: dict[str, Any], root: Root, settings: ExtractSettings
) -> dict[str, list[bytes]]:
    """In a worker of Ray Data. Bytes, because Ray's own tensor type would tie the files to it."""
    return {"chunk": [extract_chunk(root, [str(audio) for audio in batch["audio"]], settings)]}


@contextmanager
def _one_line_if_ray_ends() -> Iterator[None]:
    """What Ray cannot mend itself: its node is gone, or nothing can be reached."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:  # a mistake of ours, whose traceback is wanted
        if reason := _user_error(error):
            raise reason from None
        raise
    except RayError as error:
        raise UserError(
            f"Ray has ended while recordings were extracted ({type(error).__name__}); {GO_ON}"
        ) from error


def _user_error(error: RayTaskError) -> UserError | None:
    """What a task had to say to people, such as that object storage is away."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


@contextmanager
def _last_words() -> Iterator[None]:
    """Ray ends this process at once when its object store is gone, so another one says so."""
    words = f"error: ended while recordings were extracted, killed or by Ray; {GO_ON}"
    command = ["sh", "-c", 'read -r finished || echo "$1" >&2', "sh", words]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"finished\n")


@contextmanager
def _ray(workers: int | None) -> Iterator[None]:
    """Ray, started quietly and stopped afterwards unless it is running already."""
    prepare_own_ray()
    import ray

    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not os.environ.get("RAY_ADDRESS"):  # not one that someone else has started here
            options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        ray.init(**options)
    context = ray.data.DataContext.get_current()  # only once loaded can Ray Data be quietened
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    bars = context.enable_progress_bars
    context.enable_progress_bars = False  # ours counts utterances
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if started:
            ray.shutdown()

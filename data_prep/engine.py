"""Who extracts: this process, a pool of processes, or Ray Data. All run `extract_chunk`."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.pool import extract_with_pool
from data_prep.recordings import Root, stamp_of
from data_prep.utterance import Segment
from dimts.core.environment import n_cores, named_cluster
from dimts.core.errors import UserError
from dimts.core.ray_session import ray_session
from dimts.features.config import PrepareConfig

POOL_PAYS_FROM_BYTES = 400_000_000
"""Measured on two cores of a Xeon: two workers had their first chunk after 1.8 s, in which a core
gets through 210 MB of recordings (120 MB a second); they save half of the time of the rest."""
TASKS_A_WORKER = 4
"""At least, so that none waits long for the last one."""
Engine = Literal["ray", "pool", "local"]
GO_ON = "give the same command again, it goes on where it stopped"


def extract_all(
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Generator[bytes | Path, None, None]:
    """Extract segments in chunks, in no fixed order; each is an Arrow file, or its bytes.

    To be closed, as it may hold processes of its own.

    Args:
        root: the corpus.
        segments: of its recordings.
        settings: what to make of them.
        prepare: engine, workers, size of a chunk.
        folder: where workers of this machine put their files, so that no other has to.

    Raises:
        UserError: workers, or Ray, have ended; or the extractor cannot be loaded.
    """
    if not segments:
        return
    engine = choose_engine(root, segments, prepare)
    if engine == "ray":
        yield from _extract_with_ray(root, segments, settings, prepare, folder)
        return
    workers = 1 if engine == "local" else prepare.workers or n_cores()
    size = chunk_size(len(segments), workers, prepare)
    chunks = [segments[first : first + size] for first in range(0, len(segments), size)]
    if engine == "pool":
        yield from extract_with_pool(root, chunks, settings, folder, workers)
        return
    for chunk in chunks:
        yield extract_chunk(root, chunk, settings, None)


def choose_engine(root: Root, segments: Sequence[Segment], prepare: PrepareConfig) -> Engine:
    """What `auto` is here: Ray where a cluster is, else as many processes as are worth it."""
    if prepare.engine != "auto":
        return prepare.engine
    if named_cluster():
        return "ray"
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return "ray"
    if (prepare.workers or n_cores()) == 1:
        return "local"
    n_bytes = 0
    for audio in {segment.audio for segment in segments}:
        try:
            n_bytes += stamp_of(root, audio).size
        except OSError:  # extraction will say what is wrong with it
            continue
        if n_bytes >= POOL_PAYS_FROM_BYTES:
            return "pool"
    return "local"


def chunk_size(n: int, workers: int, prepare: PrepareConfig) -> int:
    """Utterances in a task: `prepare.chunk`, or fewer where workers would wait for the last."""
    return min(prepare.chunk, math.ceil(n / (TASKS_A_WORKER * workers)))


def _extract_with_ray(
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Iterator[bytes | Path]:
    """Tasks, or actors where a model has to be loaded, on all CPUs or GPUs; only what is in flight
    is in memory. A worker that dies is replaced.

    Workers of a cluster need not see the folder of the features: they send bytes.
    """
    if isinstance(root, Path):
        root = root.absolute()  # workers have their own current directory
    with _last_words(), _ray(prepare.workers) as our_own:
        import ray

        needs, cluster = settings.extractor.resources, ray.cluster_resources()
        gpus = needs.gpus if cluster.get("GPU") else 0
        room = [cluster.get("CPU", 1) / needs.cpus, *([cluster["GPU"] / gpus] if gpus else [])]
        workers = prepare.workers or max(1, int(min(room)))
        size = chunk_size(len(segments), workers, prepare)
        rows = ray.data.from_items(
            [segment._asdict() for segment in segments],
            override_num_blocks=math.ceil(len(segments) / size),
        )
        extract = partial(
            _extract_batch,
            root=root,
            settings=settings,
            folder=folder.absolute() if our_own else None,
        )
        chunks = rows.map_batches(
            _Worker if needs.actor else extract,
            fn_constructor_args=(extract,) if needs.actor else None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers)
            if needs.actor
            else ray.data.TaskPoolStrategy(size=prepare.workers),
            batch_size=size,
            num_cpus=needs.cpus,
            num_gpus=gpus or None,
        )
        with _one_line_if_ray_ends():
            for row in chunks.iter_rows():
                if row["error"]:
                    raise UserError(row["error"])
                chunk = row["chunk"]
                yield Path(chunk) if isinstance(chunk, str) else chunk


class _Worker:
    """An actor of Ray Data: its process keeps what the extractor has loaded."""

    def __init__(self, extract: Callable[[dict[str, Any]], dict[str, list[bytes | str]]]) -> None:
        self._extract = extract

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes | str]]:
        return self._extract(batch)


def _extract_batch(
    batch: dict[str, Any], root: Root, settings: ExtractSettings, folder: Path | None
) -> dict[str, list[bytes | str]]:
    """In a worker of Ray Data. Bytes, because Ray's own tensor type would tie the files to it.

    What there is to say to people is returned, as Ray would wrap an error in others.
    """
    rows = zip(*(batch[name].tolist() for name in Segment._fields), strict=True)
    try:
        chunk = extract_chunk(root, [Segment(*row) for row in rows], settings, folder)
    except UserError as error:
        return {"chunk": ["" if folder else b""], "error": [str(error)]}
    return {"chunk": [chunk if isinstance(chunk, bytes) else str(chunk)], "error": [""]}


@contextmanager
def _one_line_if_ray_ends() -> Iterator[None]:
    """What Ray cannot mend itself: its node is gone, or nothing can be reached."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError:  # a mistake of ours, whose traceback is wanted
        raise
    except RayError as error:
        raise UserError(
            f"Ray has ended while recordings were extracted ({type(error).__name__}); {GO_ON}"
        ) from error


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
def _ray(workers: int | None) -> Iterator[bool]:
    """Ray, quiet, and stopped afterwards if it was not running already.

    Yields whether it is our own, of this machine alone.
    """
    with ray_session(logging.ERROR, workers) as our_own:
        import ray

        context = ray.data.DataContext.get_current()  # only once loaded can Ray Data be quietened
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
        bars = context.enable_progress_bars
        context.enable_progress_bars = False  # ours counts utterances
        try:
            yield our_own
        finally:
            context.enable_progress_bars = bars

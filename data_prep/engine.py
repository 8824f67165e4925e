"""Who extracts: this process, a pool of processes, or Ray Data. All run `extract_chunk`."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.extract import ExtractSettings, extract_chunk, extract_to_file
from data_prep.pool import extract_with_pool
from data_prep.recordings import Root, stamp_of
from dimts.core.errors import UserError
from dimts.core.machine import n_cores
from dimts.core.ray_environment import named_cluster
from dimts.core.ray_session import ray_session
from dimts.features.config import PrepareConfig

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

POOL_PAYS_FROM_BYTES = 400_000_000
"""Measured on two cores of a Xeon: two workers had their first chunk after 1.8 s, in which a core
gets through 210 MB of recordings (120 MB a second); they save half of the time of the rest."""
TASKS_A_WORKER = 4
"""At least, so that none waits long for the last one."""
Engine = Literal["ray", "pool", "local"]
GO_ON = "give the same command again, it goes on where it stopped"


def extract_all(
    root: Root,
    audios: Sequence[str],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Generator[bytes | Path, None, None]:
    """Extract recordings in chunks, in no fixed order; each is an Arrow file, or its bytes.

    To be closed, as it may hold processes of its own.

    Args:
        root: the corpus.
        audios: recordings, relative to it.
        settings: what to make of them.
        prepare: engine, workers, size of a chunk.
        folder: where workers of this machine put their files, so that no other has to.

    Raises:
        UserError: workers, or Ray, have ended.
    """
    if not audios:
        return
    engine = choose_engine(root, audios, prepare)
    if engine == "ray":
        yield from _extract_with_ray(root, audios, settings, prepare, folder)
        return
    workers = 1 if engine == "local" else prepare.workers or n_cores()
    size = chunk_size(len(audios), workers, prepare)
    chunks = [audios[first : first + size] for first in range(0, len(audios), size)]
    if engine == "pool":
        yield from extract_with_pool(root, chunks, settings, folder, workers)
        return
    for chunk in chunks:
        yield extract_chunk(root, chunk, settings)


def choose_engine(root: Root, audios: Sequence[str], prepare: PrepareConfig) -> Engine:
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
    for audio in audios:
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
    audios: Sequence[str],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Iterator[bytes | Path]:
    """Tasks on all CPUs; only what is in flight is in memory. A worker that dies is replaced.

    Workers of a cluster need not see the folder of the features: they send bytes.
    """
    if isinstance(root, Path):
        root = root.absolute()  # workers have their own current directory
    with _last_words(), _ray(prepare.workers) as our_own:
        import ray

        workers = prepare.workers or int(ray.cluster_resources().get("CPU", 1))
        size = chunk_size(len(audios), workers, prepare)
        rows = ray.data.from_items(
            [{"audio": audio} for audio in audios],
            override_num_blocks=math.ceil(len(audios) / size),
        )
        chunks = rows.map_batches(
            partial(
                _extract_batch,
                root=root,
                settings=settings,
                folder=folder.absolute() if our_own else None,
            ),
            batch_size=size,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=prepare.workers),
        )
        with _one_line_if_ray_ends():
            for row in chunks.iter_rows():
                chunk = row["chunk"]
                yield Path(chunk) if isinstance(chunk, str) else chunk


def _extract_batch(
    batch: dict[str, Any], root: Root, settings: ExtractSettings, folder: Path | None
) -> dict[str, list[bytes | str]]:
    """In a worker of Ray Data. Bytes, because Ray's own tensor type would tie the files to it."""
    audios = [str(audio) for audio in batch["audio"]]
    if folder is not None:
        return {"chunk": [str(extract_to_file(root, audios, settings, folder))]}
    return {"chunk": [extract_chunk(root, audios, settings)]}


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

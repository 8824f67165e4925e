"""Who extracts: this process, a pool of processes, or Ray Data. All run `extract_chunk`."""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal

from data_prep.extract import ExtractSettings, chunk_file, extract_chunk
from data_prep.ray_data import GO_ON, ray_data, ray_is_there
from data_prep.recordings import Root
from data_prep.utterance import Segment
from dimts.audio.parquet_recordings import container
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.core.ray_session import MAX_SOCKET_PATH, SHORT
from dimts.features.config import PrepareConfig
from dimts.storage.files import write_atomic

POOL_PAYS_FROM_BYTES = 400_000_000
"""Measured on two cores of a Xeon: two workers had their first chunk after 1.8 s, in which a core
gets through 210 MB of recordings (120 MB a second); they save half of the time of the rest."""
TASKS_A_WORKER = 4
"""At least, so that none waits long for the last one."""
PRELOADED = ["__main__", "data_prep.engine", "dimts.audio.mel_kernel", "soundfile"]
"""What workers of a pool load, in the process that all of them are forked from."""
SOCKET = "/pymp-12345678/listener-12345678"
"""Of that process, as `multiprocessing` names it."""
Engine = Literal["ray", "pool", "local"]


def extract_all(
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Generator[Path, None, None]:
    """Extract segments in chunks, each a file of `folder`, in no fixed order.

    To be closed, as it may hold processes of its own.

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
        yield from _extract_with_pool(root, chunks, settings, workers, folder)
        return
    for chunk in chunks:
        yield extract_chunk(root, chunk, settings, folder)


def choose_engine(root: Root, segments: Sequence[Segment], prepare: PrepareConfig) -> Engine:
    """What `auto` is here: Ray where a cluster is, else as many processes as are worth it."""
    if prepare.engine != "auto":
        return prepare.engine
    if ray_is_there():
        return "ray"
    if (prepare.workers or n_cores()) == 1:
        return "local"
    n_bytes = 0
    for audio in {container(segment.audio) for segment in segments}:
        with suppress(OSError):  # extraction will say what is wrong with it
            n_bytes += root.stamp(audio).size
    return "pool" if n_bytes >= POOL_PAYS_FROM_BYTES else "local"


def chunk_size(n: int, workers: int, prepare: PrepareConfig) -> int:
    """Utterances in a task: `prepare.chunk`, or fewer where workers would wait for the last."""
    return min(prepare.chunk, math.ceil(n / (TASKS_A_WORKER * workers)))


def _extract_with_pool(
    root: Root,
    chunks: Sequence[Sequence[Segment]],
    settings: ExtractSettings,
    workers: int,
    folder: Path,
) -> Iterator[Path]:
    """What Ray Data does on a cluster, without its start."""
    pool = ProcessPoolExecutor(min(workers, len(chunks)), _forking(), _end_with_parent)
    try:
        futures = [pool.submit(extract_chunk, root, chunk, settings, folder) for chunk in chunks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a process that extracted was ended from outside, for lack of memory perhaps; {GO_ON}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _forking() -> ForkServerContext:
    """Workers are forked from a process without threads, which a fork would not take on."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + len(SOCKET) > MAX_SOCKET_PATH:
        # Python up to 3.13 does not look; the folder that is made first stays this process's.
        tempfile.tempdir = SHORT
        util.get_temp_dir()
        tempfile.tempdir = folder
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _end_with_parent() -> None:
    """A worker of a pool waits for ever for a parent that was killed."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _extract_with_ray(
    root: Root,
    segments: Sequence[Segment],
    settings: ExtractSettings,
    prepare: PrepareConfig,
    folder: Path,
) -> Iterator[Path]:
    """Tasks, or actors where a model has to be loaded, on all CPUs or GPUs; only what is in flight
    is in memory. A worker that dies is replaced.

    Workers of a cluster need not see the folder of the features: they send bytes.
    """
    with _last_words(), ray_data("recordings were extracted", prepare.workers) as our_own:
        import ray

        needs, cluster = settings.extractor.resources, ray.cluster_resources()
        gpus = needs.gpus if cluster.get("GPU") else 0
        room = min(cluster.get("CPU", 1) / needs.cpus, cluster["GPU"] / gpus if gpus else math.inf)
        workers = prepare.workers or max(1, int(room))
        size = chunk_size(len(segments), workers, prepare)
        rows = ray.data.from_items(
            [segment._asdict() for segment in segments],
            override_num_blocks=math.ceil(len(segments) / size),
        )
        extract: Any = _Actor if needs.actor else _extract_batch
        shared_folder = folder.absolute() if our_own else None
        chunks = rows.map_batches(
            extract,
            fn_kwargs={"root": root, "settings": settings, "folder": shared_folder},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers)
            if needs.actor
            else ray.data.TaskPoolStrategy(size=prepare.workers),
            batch_size=size,
            num_cpus=needs.cpus,
            num_gpus=gpus or None,
        )
        for row in chunks.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            file = Path(row["file"]) if our_own else chunk_file(folder)
            if not our_own:
                write_atomic(file, row["content"])
            yield file


def _extract_batch(
    batch: dict[str, Any], root: Root, settings: ExtractSettings, folder: Path | None
) -> dict[str, list[Any]]:
    """In a worker of Ray Data: the name of a file in `folder`, or what it would hold.

    Bytes, because Ray's own tensor type would tie the files to it. What there is to say to people
    is returned, as Ray would wrap an error in others.
    """
    rows = zip(*(batch[name].tolist() for name in Segment._fields), strict=True)
    with tempfile.TemporaryDirectory() as own:
        try:
            segments = [Segment(*row) for row in rows]
            file = extract_chunk(root, segments, settings, folder or Path(own))
        except UserError as error:
            return {"file": [""], "content": [b""], "error": [str(error)]}
        content = b"" if folder else file.read_bytes()
    return {"file": [str(file)], "content": [content], "error": [""]}


class _Actor:
    """An actor of Ray Data: its process keeps what the extractor has loaded."""

    def __call__(self, batch: dict[str, Any], **shared: Any) -> dict[str, list[Any]]:
        return _extract_batch(batch, **shared)


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

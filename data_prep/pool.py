"""Processes of this machine that extract: what Ray Data does on a cluster, without its start."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import forkserver, get_context, parent_process, util
from multiprocessing.context import ForkServerContext
from pathlib import Path

from data_prep.extract import ExtractSettings, extract_chunk
from data_prep.recordings import Root
from data_prep.utterance import Segment
from dimts.core.errors import UserError
from dimts.core.ray_session import MAX_SOCKET_PATH, SHORT

PRELOADED = ["__main__", "data_prep.extract", "dimts.audio.mel_kernel", "soundfile"]
"""What a worker would load; it is loaded once, in the process that all of them are forked from."""
SOCKET = "/pymp-12345678/listener-12345678"
"""As `multiprocessing` names it."""
IN_FLIGHT = 2
"""Chunks a worker has been given: the one it is at, and one so that it need not wait."""


def load_ahead() -> None:
    """Begin to load what workers need, in another process, while this one does something else."""
    _context()
    forkserver.ensure_running()


def _context() -> ForkServerContext:
    _shorten_temporary_folder()
    context = get_context("forkserver")  # this process has threads, which a fork would not take on
    context.set_forkserver_preload(PRELOADED)
    return context


def _shorten_temporary_folder() -> None:
    """The fork server's socket has its name in the temporary folder, which may be too long for one.

    Python up to 3.13 does not look; the folder that is made first stays that of this process.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + len(SOCKET) <= MAX_SOCKET_PATH:
        return
    tempfile.tempdir = SHORT
    try:
        util.get_temp_dir()
    finally:
        tempfile.tempdir = folder


def extract_with_pool(
    root: Root,
    chunks: Sequence[Sequence[Segment]],
    settings: ExtractSettings,
    folder: Path,
    workers: int,
) -> Iterator[Path | bytes]:
    """Extract each chunk in one of `workers` processes; a file of `folder` each, as they are done.

    Raises:
        UserError: a worker was killed.
    """
    waiting = iter(chunks)
    under_way: set[Future[Path | bytes]] = set()
    pool = ProcessPoolExecutor(min(workers, len(chunks)), _context(), _end_with_parent)
    try:
        while True:
            for chunk in islice(waiting, IN_FLIGHT * workers - len(under_way)):
                under_way.add(pool.submit(extract_chunk, root, chunk, settings, folder))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that extracted was ended from outside, for lack of memory perhaps; "
            "give the same command again, it goes on where it stopped"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker of a pool waits for ever for a parent that was killed."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()

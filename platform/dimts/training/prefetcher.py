"""Items of an iterator, made a few ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator


class Prefetcher:
    """Runs an iterator in a thread, a few items ahead.

    An exception of the iterator is raised where its item would have come.
    """

    def __init__(self, items: Iterator[object], ahead: int = 2):
        self._queue: queue.Queue[tuple[bool, object]] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[object]) -> None:
        try:
            for item in items:
                if not self._put((True, item)):
                    return
            self._put((False, StopIteration()))
        except BaseException as error:  # handed to the consumer, who raises it
            self._put((False, error))

    def _put(self, item: tuple[bool, object]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def next(self) -> object:
        """The next item.

        Raises:
            StopIteration: there is none.
        """
        good, item = self._queue.get()
        if not good:
            assert isinstance(item, BaseException)
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

"""How many threads torch computes with on a CPU: as many as are faster than fewer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

GAIN = 0.87
"""Share of the time that twice as many threads need at most, to be worth the second core."""
REPEATS = 2


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread.

    What is as short as a sentence gains little from a second one, and threads that wait for each
    other lose much more where something else uses the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(compute: Callable[[], object], most: int) -> int:
    """The number of threads, of 1, 2, 4, ... and `most`, that `compute` is quickest with.

    More are only taken while they save enough to be worth the cores (`GAIN`). Torch is left with
    what was found.
    """
    best, best_s, threads = 1, math.inf, 1
    while True:
        seconds = _seconds(compute, threads)
        if seconds > best_s * GAIN and best_s < math.inf:
            break
        best, best_s = threads, seconds
        if threads >= most:
            break
        threads = min(2 * threads, most)
    torch.set_num_threads(best)
    return best


def _seconds(compute: Callable[[], object], threads: int) -> float:
    """The least of some repetitions, after one that plans the computation."""
    torch.set_num_threads(threads)
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])

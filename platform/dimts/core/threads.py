"""How many threads torch computes with on a CPU: as many as are faster than fewer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

GAIN = 0.87
"""Share of the time that twice as many threads need at most, to be worth the second core."""
ROUNDS = 4


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: a sentence gains little from a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(compute: Callable[[], object], most: int) -> int:
    """Set torch to the number of threads, of 1, 2, 4, ... and `most`, that `compute` is quickest
    with; more are only taken while they save enough to be worth the cores (`GAIN`)."""
    best = 1
    while best < most:
        more = min(2 * best, most)
        fewer_s, more_s = _seconds(compute, (best, more))
        if more_s > GAIN * fewer_s:
            break
        best = more
    torch.set_num_threads(best)
    return best


def _seconds(compute: Callable[[], object], counts: Sequence[int]) -> list[float]:
    """For each number of threads the least of some rounds, in which they take turns, as a process
    that has just begun still starts other things. The first round plans the computation."""
    seconds: list[list[float]] = [[] for _ in counts]
    for _ in range(1 + ROUNDS):
        for taken, threads in zip(seconds, counts, strict=True):
            torch.set_num_threads(threads)
            start = time.perf_counter()
            compute()
            taken.append(time.perf_counter() - start)
    return [min(taken[1:]) for taken in seconds]

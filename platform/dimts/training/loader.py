"""What a worker computes: its share of each batch to come, cut into micro-batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from dimts.training.config import TrainingConfig
from dimts.training.sampler import BucketSampler, Position, interleave, split_batch
from dimts.training.task import Batch, Task

T = TypeVar("T")


class ScheduledBatch(NamedTuple):
    """What a worker computes of a step: its micro-batches of a batch with these utterances, and
    the position after that."""

    after: Position
    ids: Sequence[str]
    micro_batches: list[Batch]


class BatchLoader:
    """The batches of a run as one of its workers sees them.

    `on_gpu` they are padded so that few shapes occur, and pinned to be copied to the device.

    Attributes:
        sampler: of the corpus that is learned.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, rank: int, world_size: int, on_gpu: bool
    ):
        self._config, self._rehearsal_share = config, task.rehearsal_share
        self._rank, self._world_size, self.on_gpu = rank, world_size, on_gpu
        size, seed, budget = config.batch_size, config.seed, config.batch_budget
        self._corpora = [
            (dataset, BucketSampler(dataset.lengths, size, seed, budget, repeats))
            for dataset, repeats in ((task.train, task.repeats), (task.rehearsal, None))
            if dataset is not None
        ]
        self.sampler = self._corpora[0][1]

    def ahead(self, position: Position, n_micro: int) -> Generator[ScheduledBatch]:
        """Batches from `position` on, each cut into `n_micro`; a few are collated beforehand."""
        return prefetch(self._scheduled(position, n_micro))

    def longest(self, n_micro: int, shorter_than: float = 0.0) -> Iterator[Batch]:
        """Of each corpus this worker's first micro-batch of the batch of its longest utterances;
        `shorter_than` leaves out a share of them."""
        for dataset, sampler in self._corpora:
            whole, own = self._share(sampler.longest_batch(shorter_than), n_micro)
            yield dataset.collate(own[0], whole, pad_to_multiple=self.on_gpu)

    def _share(self, whole: list[int], n_micro: int) -> tuple[list[int], list[list[int]]]:
        """The whole batch, and this worker's micro-batches of it.

        Within a budget a batch may have fewer utterances than there are workers; all of them are
        then there several times, which leaves the losses, and so the gradients, what they were.
        """
        if self._config.batch_budget:
            whole = whole * -(-self._world_size // len(whole))
            n_micro = min(n_micro, len(whole) // self._world_size)
        return whole, split_batch(whole, self._rank, self._world_size, n_micro)

    def max_micro_batches(self) -> int:
        """Into how many micro-batches each worker's share of every batch can be cut."""
        smallest = min(sampler.smallest_batch for _, sampler in self._corpora)
        return max(1, smallest // self._world_size)

    def _scheduled(self, position: Position, n_micro: int) -> Iterator[ScheduledBatch]:
        rehearsed = self._corpora[1][1] if len(self._corpora) > 1 else None
        for after, is_rehearsal, indices in interleave(
            self.sampler, rehearsed, self._rehearsal_share, position
        ):
            dataset, _ = self._corpora[is_rehearsal]
            seed = (self._config.seed, *after)
            whole, own = self._share(indices, n_micro)
            batches = [
                dataset.collate(part, whole, seed=seed, pad_to_multiple=self.on_gpu) for part in own
            ]
            pinned = [batch.pin() for batch in batches] if self.on_gpu else batches
            yield ScheduledBatch(after, [dataset.ids[i] for i in indices], pinned)


def prefetch(items: Iterator[T], ahead: int = 3) -> Generator[T]:
    """Run an endless iterator in a thread, some items ahead, until this generator is closed.

    An exception of the iterator is raised where its item would have come.
    """
    pool = ThreadPoolExecutor(1)
    try:
        futures = deque(pool.submit(next, items) for _ in range(ahead))
        while True:
            item = futures.popleft().result()
            futures.append(pool.submit(next, items))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)

"""What a worker computes: its share of each batch to come, cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dimts.training.config import TrainingConfig
from dimts.training.prefetcher import Prefetcher
from dimts.training.sampler import BucketSampler, Position, interleave, split_batch
from dimts.training.task import Batch, Dataset, Task


class ScheduledBatch(NamedTuple):
    """What a worker computes of a step.

    Attributes:
        after: the position that follows it.
        ids: of the utterances of the whole batch, over all workers.
        micro_batches: this worker's.
    """

    after: Position
    ids: Sequence[str]
    micro_batches: list[Batch]


class BatchLoader:
    """The batches of a run as one of its workers sees them.

    Args:
        task: whose data they are of.
        config: batch size, or budget, and seed.
        rank, world_size: of this worker, and how many there are.
        on_gpu: pad so that few shapes occur, and pin what is to be copied to the device.

    Attributes:
        sampler: of the corpus that is learned.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, rank: int, world_size: int, on_gpu: bool
    ):
        self._task, self._config = task, config
        self._rank, self._world_size, self._on_gpu = rank, world_size, on_gpu
        self.sampler = self._sampler(task.train)
        self._rehearsal = self._sampler(task.rehearsal) if task.rehearsal else None

    def _sampler(self, dataset: Dataset) -> BucketSampler:
        config = self._config
        return BucketSampler(dataset.lengths, config.batch_size, config.seed, config.batch_budget)

    def ahead(self, position: Position, n_micro: int) -> Prefetcher:
        """Batches from `position` on, a few of them collated beforehand.

        Args:
            position: of the first batch.
            n_micro: micro-batches that this worker's share is cut into.
        """
        return Prefetcher(self._scheduled(position, n_micro))

    def longest(self, n_micro: int) -> Iterator[Batch]:
        """Of each corpus this worker's first micro-batch of the longest batch that could be."""
        return self._first_micro_batches(n_micro, 0.0)

    def usual(self, n_micro: int) -> Iterator[Batch]:
        """Of each corpus this worker's first micro-batch of a batch of middling length."""
        return self._first_micro_batches(n_micro, 0.5)

    def _first_micro_batches(self, n_micro: int, shorter_than: float) -> Iterator[Batch]:
        for dataset, sampler in (
            (self._task.train, self.sampler),
            (self._task.rehearsal, self._rehearsal),
        ):
            if dataset is None or sampler is None:
                continue
            whole, own = self._share(sampler.longest_batch(shorter_than), n_micro)
            yield dataset.collate(own[0], whole, pad_to_multiple=self._on_gpu)

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
        samplers = filter(None, (self.sampler, self._rehearsal))
        return max(1, min(s.smallest_batch for s in samplers) // self._world_size)

    def _scheduled(self, position: Position, n_micro: int) -> Iterator[ScheduledBatch]:
        share = self._task.rehearsal_share
        for after, is_rehearsal, indices in interleave(
            self.sampler, self._rehearsal, share, position
        ):
            dataset = self._task.rehearsal if is_rehearsal else self._task.train
            assert dataset is not None
            seed = (self._config.seed, *after)
            whole, own = self._share(indices, n_micro)
            batches = [
                dataset.collate(part, whole, seed=seed, pad_to_multiple=self._on_gpu)
                for part in own
            ]
            ids = [dataset.ids[i] for i in indices]
            pinned = [batch.pin() for batch in batches] if self._on_gpu else batches
            yield ScheduledBatch(after, ids, pinned)

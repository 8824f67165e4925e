"""What a worker computes: its share of each batch to come, cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dimts.families.acoustic.corpora import turns
from dimts.training.job import Job
from dimts.training.sampler import Batch, BucketSampler, Corpus, Position, Prefetcher, split_batch


class Turn(NamedTuple):
    """What a worker computes of a step.

    Attributes:
        after: the position that follows it.
        ids: of the utterances of the whole batch, over all workers.
        micro_batches: this worker's.
    """

    after: Position
    ids: list[str]
    micro_batches: list[Batch]


class Feed:
    """The batches of a run as one of its workers sees them.

    Args:
        job: the run.
        rank, world_size: of this worker, and how many there are.
        on_gpu: pad to whole grains, and pin what is to be copied to the device.

    Attributes:
        sampler: of the corpus that is learned.
    """

    def __init__(self, job: Job, rank: int, world_size: int, on_gpu: bool):
        self._job, self._rank, self._world_size, self._on_gpu = job, rank, world_size, on_gpu
        self.sampler = self._sampler(job.train)
        self._rehearsal = self._sampler(job.rehearsal) if job.rehearsal else None

    def _sampler(self, corpus: Corpus) -> BucketSampler:
        config = self._job.config
        return BucketSampler(corpus.utterances.n_frames, config.batch_size, config.seed)

    def ahead(self, position: Position, parts: int) -> Prefetcher:
        """Turns from `position` on, a few of them collated beforehand.

        Args:
            position: of the first batch.
            parts: micro-batches that this worker's share is cut into.
        """
        return Prefetcher(self._turns(position, parts))

    def longest(self, parts: int) -> Iterator[Batch]:
        """Of each corpus this worker's first micro-batch of the longest batch that could be."""
        return self._batches(parts, 0.0)

    def usual(self, parts: int) -> Iterator[Batch]:
        """Of each corpus this worker's first micro-batch of a batch of middling length."""
        return self._batches(parts, 0.5)

    def _batches(self, parts: int, shorter_than: float) -> Iterator[Batch]:
        """Of utterances that follow that share of all in the order from long to short."""
        size = self._job.config.batch_size
        for corpus in filter(None, (self._job.train, self._job.rehearsal)):
            order = (-corpus.utterances.n_frames).argsort(kind="stable")
            first = int(shorter_than * max(0, len(order) - size))
            whole = order[first : first + size].tolist()
            own = split_batch(whole, self._rank, self._world_size, parts)[0]
            yield corpus.batch(own, whole, grains=self._on_gpu)

    def most_parts(self) -> int:
        """Into how many micro-batches each worker's share of every batch can be cut."""
        samplers = filter(None, (self.sampler, self._rehearsal))
        return max(1, min(s.smallest_batch for s in samplers) // self._world_size)

    def _turns(self, position: Position, parts: int) -> Iterator[Turn]:
        share = self._job.rehearsal_share
        for turn in turns(self.sampler, self._rehearsal, share, position):
            corpus = self._job.rehearsal if turn.rehearsal else self._job.train
            assert corpus is not None
            own = split_batch(turn.indices, self._rank, self._world_size, parts)
            batches = [corpus.batch(part, turn.indices, grains=self._on_gpu) for part in own]
            ids = [corpus.utterances.ids[i] for i in turn.indices]
            yield Turn(turn.after, ids, [b.pin() for b in batches] if self._on_gpu else batches)

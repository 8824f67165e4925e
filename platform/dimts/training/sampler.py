"""Length-bucketed batches, the same for any number of workers, and resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dimts.core.errors import UserError

SORT_WINDOW = 32
"""Batches sorted by length together: more pads less, and mixes the lengths less."""

JITTER = 0.03
"""Share by which a length is taken for longer or shorter in sorting."""


class Position(NamedTuple):
    """The next batch: epoch, counted from 0, and number of the batch inside it.

    `rehearsed` counts the batches of the rehearsed corpus that came before it.
    """

    epoch: int
    batch: int
    rehearsed: int = 0


class BucketSampler:
    """An endless, seeded sequence of batches of utterances of about the same length.

    Each epoch visits every utterance once, or as often as `repeats` says. Utterances are shuffled,
    sorted by length inside windows of a few batches, cut into batches, and the batches shuffled.

    Args:
        lengths: of the utterances, [n].
        batch_size: utterances a step, over all workers and micro-batches together.
        seed: of the shuffling.
        budget: units of a batch at most, padding included, instead of a number of utterances;
            0 counts utterances. A longer utterance is a batch of its own.
        repeats: visits of each utterance in an epoch, on average, [n]; None: one.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        seed: int,
        budget: int = 0,
        repeats: NDArray[np.float64] | None = None,
    ):
        self._lengths = lengths
        repeats = np.ones(len(lengths)) if repeats is None else repeats
        self._n_visits = round(float(repeats.sum()))
        self._repeats = repeats * (self._n_visits / max(1.0, float(repeats.sum())))
        self._batch_size = batch_size
        self._seed = seed
        self._budget = budget
        self._latest: tuple[int, list[list[int]]] = (-1, [])

    def batches_of(self, epoch: int) -> int:
        """Number of batches of an epoch; with a budget it differs from one to the next."""
        if self._budget:
            return len(self.batches(epoch))
        return -(-self._n_visits // self._batch_size)

    def position_of(self, done: int) -> Position:
        """Where the sequence stands after a number of batches."""
        epoch = 0
        while done >= (n := self.batches_of(epoch)):
            done, epoch = done - n, epoch + 1
        return Position(epoch, done)

    @property
    def smallest_batch(self) -> int:
        """Utterances of the smallest batch; with a budget, of one of the longest utterances."""
        if self._budget:
            return max(1, self._budget // max(1, int(self._lengths.max(initial=1))))
        return self._n_visits // max(1, self.batches_of(0))

    def longest_batch(self, shorter_than: float = 0.0) -> list[int]:
        """The batch of the longest utterances; or of those that follow a share of all of them."""
        order = (-self._lengths).argsort(kind="stable")
        order = np.repeat(order, np.ceil(self._repeats[order]).astype(int))
        size = self._batch_size
        first = int(shorter_than * max(0, len(order) - size))
        if self._budget:
            size = max(1, self._budget // int(self._lengths[order[first]]))
        return order[first : first + size].tolist()

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, in order; the same for the same seed."""
        known, batches = self._latest
        if epoch != known:
            batches = self._shuffle(epoch)
            self._latest = epoch, batches  # at once: a thread that reads ahead looks, too
        return batches

    def _shuffle(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._lengths))
        if self._n_visits != len(order):
            order = rng.permutation(self._visits(order, rng))
        if self._budget:
            about = self._lengths[order] * rng.uniform(1 - JITTER, 1 + JITTER, len(order))
            batches = self._fill(order[np.argsort(about, kind="stable")])
            return [batches[i] for i in rng.permutation(len(batches))]
        # Batches of one epoch differ in size by one at most: no worker is left without.
        sizes = np.diff(np.linspace(0, len(order), self.batches_of(epoch) + 1).astype(int))
        batches = []
        for first in range(0, len(sizes), SORT_WINDOW):
            window = sizes[first : first + SORT_WINDOW]
            chunk, order = order[: window.sum()], order[window.sum() :]
            # About sorted: or a corpus of one window would have the same batches every epoch.
            about = self._lengths[chunk] * rng.uniform(1 - JITTER, 1 + JITTER, len(chunk))
            chunk = chunk[np.argsort(about, kind="stable")]
            batches += [part.tolist() for part in np.split(chunk, np.cumsum(window)[:-1])]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _visits(self, order: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Utterances as often as an epoch visits them; of 1.3 visits, 2 in three epochs of ten.

        Drawn by systematic sampling, so that each epoch has as many visits as any other.
        """
        passed = np.floor(self._repeats[order].cumsum() + rng.uniform())
        passed[-1] = self._n_visits
        return np.repeat(order, np.diff(passed, prepend=0).astype(int))

    def _fill(self, order: NDArray[np.int64]) -> list[list[int]]:
        """Batches of consecutive utterances within the budget."""
        batches: list[list[int]] = []
        longest = 0
        for index in order.tolist():
            longest = max(longest, int(self._lengths[index]))
            if not batches or longest * (len(batches[-1]) + 1) > self._budget:
                batches.append([])
                longest = int(self._lengths[index])
            batches[-1].append(index)
        return batches

    def following(self, position: Position) -> Iterator[tuple[Position, list[int]]]:
        """Batches from `position` on, each with the position that comes after it."""
        epoch, start, _ = position
        while True:
            batches = self.batches(epoch)
            for number in range(start, len(batches)):
                is_last = number + 1 == len(batches)
                after = Position(epoch + 1, 0) if is_last else Position(epoch, number + 1)
                yield after, batches[number]
            epoch, start = epoch + 1, 0


def split_batch(
    indices: Sequence[int], rank: int, world_size: int, n_micro: int
) -> list[list[int]]:
    """This worker's micro-batches of a batch: every `world_size * n_micro`-th utterance."""
    if len(indices) < world_size * n_micro:
        raise UserError(
            f"a batch of {len(indices)} utterances does not split into {world_size} workers "
            f"x {n_micro} micro-batches; lower ray.workers or training.accumulate"
        )
    return [list(indices[rank * n_micro + k :: world_size * n_micro]) for k in range(n_micro)]


class ScheduledIndices(NamedTuple):
    """A batch to come: the position after it, and which utterances of which corpus it holds."""

    after: Position
    rehearsal: bool
    indices: list[int]


def interleave(
    main: BucketSampler, rehearsed: BucketSampler | None, share: float, position: Position
) -> Iterator[ScheduledIndices]:
    """Batches from `position` on, of which a `share`, evenly spread, is of `rehearsed`."""
    if rehearsed is None or not share:
        for after, indices in main.following(position):
            yield ScheduledIndices(after, False, indices)
        return
    epoch, batch, done = position
    of_main = main.following(position)
    of_rehearsed = rehearsed.following(rehearsed.position_of(done))
    n = sum(main.batches_of(e) for e in range(epoch)) + batch + done
    while True:
        n += 1
        if int(n * share + 1e-9) > done:
            done += 1
            _, indices = next(of_rehearsed)
            yield ScheduledIndices(Position(epoch, batch, done), True, indices)
        else:
            (epoch, batch, _), indices = next(of_main)
            yield ScheduledIndices(Position(epoch, batch, done), False, indices)

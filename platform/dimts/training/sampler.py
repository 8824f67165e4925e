"""Length-bucketed batches, the same for any number of workers, and resumable."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.core.errors import UserError

SORT_WINDOW = 32
"""Batches sorted by length together: more pads less, and mixes the lengths less."""

JITTER = 0.03
"""Share by which a length is taken for longer or shorter in sorting."""

TOKEN_GRAIN, FRAME_GRAIN = 16, 32
"""What padded widths are multiples of on a GPU, see `Corpus.batch`."""


class Utterances(Protocol):
    """What the loop needs of a split; `dimts.features.FeatureSplit` is one."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def n_frames(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def mel(self, index: int) -> NDArray[np.float32]:
        """Natural-log mel, [T, M]."""
        ...


@dataclass
class Batch:
    """Utterances padded to the longest of them.

    Attributes:
        ids: of the utterances, for error messages.
        indices: of the utterances in their split.
        tokens_BN, n_tokens_B: int64.
        mel_BTM, n_frames_B: natural-log mel, float32, zero on padding; int64.
        durations_BNS: int64, where an aligner has given them.
        total_frames, total_tokens: of the whole batch over all workers.
    """

    ids: list[str]
    indices: list[int]
    tokens_BN: Tensor
    n_tokens_B: Tensor
    mel_BTM: Tensor
    n_frames_B: Tensor
    durations_BNS: Tensor | None = None
    total_frames: int = 0
    total_tokens: int = 0

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        durations = self.durations_BNS
        return replace(
            self,
            tokens_BN=self.tokens_BN.to(device, non_blocking=True),
            n_tokens_B=self.n_tokens_B.to(device, non_blocking=True),
            mel_BTM=self.mel_BTM.to(device, non_blocking=True),
            n_frames_B=self.n_frames_B.to(device, non_blocking=True),
            durations_BNS=None if durations is None else durations.to(device, non_blocking=True),
        )

    def pin(self) -> Batch:
        """The same batch in memory that a GPU copies from while the CPU goes on."""
        durations = self.durations_BNS
        return replace(
            self,
            tokens_BN=self.tokens_BN.pin_memory(),
            n_tokens_B=self.n_tokens_B.pin_memory(),
            mel_BTM=self.mel_BTM.pin_memory(),
            n_frames_B=self.n_frames_B.pin_memory(),
            durations_BNS=None if durations is None else durations.pin_memory(),
        )


class Corpus:
    """A split together with its token ids and, once aligned, its durations."""

    def __init__(self, utterances: Utterances, tokens: Sequence[NDArray[np.int64]]):
        self.utterances = utterances
        self.tokens = tokens
        self.n_tokens = np.array([len(t) for t in tokens], np.int64)
        self.durations: Sequence[NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(
        self, indices: Sequence[int], total: Sequence[int] | None = None, grains: bool = False
    ) -> Batch:
        """Collate utterances.

        Args:
            indices: of the utterances.
            total: those of all workers, for the loss's divisor.
            grains: pad to whole grains, so that few shapes occur. For each shape that it has
                not met cuDNN plans its convolutions anew, which takes longer than the step.
        """
        total = indices if total is None else total
        n_frames = self.utterances.n_frames[list(indices)]
        n_tokens = self.n_tokens[list(indices)]
        n_mels = self.utterances.mel(indices[0]).shape[1]
        width, length = int(n_tokens.max()), int(n_frames.max())
        if grains:
            width, length = width + -width % TOKEN_GRAIN, length + -length % FRAME_GRAIN
        tokens = torch.zeros(len(indices), width, dtype=torch.long)
        mel = torch.zeros(len(indices), length, n_mels)
        durations = None
        if self.durations is not None:
            n_states = self.durations[indices[0]].shape[1]
            durations = torch.zeros(*tokens.shape, n_states, dtype=torch.long)
        for row, index in enumerate(indices):
            tokens[row, : n_tokens[row]] = torch.from_numpy(self.tokens[index])
            # The mapped array is read-only, which torch.from_numpy warns of: copy by numpy.
            mel[row, : n_frames[row]].numpy()[:] = self.utterances.mel(index)
            if durations is not None and self.durations is not None:
                durations[row, : n_tokens[row]] = torch.from_numpy(self.durations[index])
        return Batch(
            ids=[self.utterances.ids[i] for i in indices],
            indices=list(indices),
            tokens_BN=tokens,
            n_tokens_B=torch.from_numpy(n_tokens),
            mel_BTM=mel,
            n_frames_B=torch.from_numpy(n_frames),
            durations_BNS=durations,
            total_frames=int(self.utterances.n_frames[list(total)].sum()),
            total_tokens=int(self.n_tokens[list(total)].sum()),
        )


class Position(NamedTuple):
    """The next batch: epoch, counted from 0, and number of the batch inside it.

    `rehearsed` counts the batches of the rehearsed corpus that came before it.
    """

    epoch: int
    batch: int
    rehearsed: int = 0


class BucketSampler:
    """An endless, seeded sequence of batches of utterances of about the same length.

    Each epoch visits every utterance once. Utterances are shuffled, sorted by length inside
    windows of a few batches, cut into batches, and the batches shuffled. The sequence
    depends on the seed alone, so a position is all there is to remember.

    Args:
        n_frames: length of each utterance.
        batch_size: utterances a step, over all workers and micro-batches together.
        seed: of the shuffling.
    """

    def __init__(self, n_frames: NDArray[np.int64], batch_size: int, seed: int):
        self._n_frames = n_frames
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[list[int]] = []

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self._n_frames) // self._batch_size)

    @property
    def smallest_batch(self) -> int:
        """Utterances of the smallest batch."""
        return len(self._n_frames) // max(1, self.batches_per_epoch)

    def batches(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, in order; the same for the same seed."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        return self._batches

    def _shuffle(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(self._n_frames))
        # Batches of one epoch differ in size by one at most: no worker is left without.
        sizes = np.diff(np.linspace(0, len(order), self.batches_per_epoch + 1).astype(int))
        batches: list[list[int]] = []
        for first in range(0, len(sizes), SORT_WINDOW):
            window = sizes[first : first + SORT_WINDOW]
            chunk, order = order[: window.sum()], order[window.sum() :]
            # About sorted: or a corpus of one window would have the same batches every epoch.
            about = self._n_frames[chunk] * rng.uniform(1 - JITTER, 1 + JITTER, len(chunk))
            chunk = chunk[np.argsort(about, kind="stable")]
            batches += [part.tolist() for part in np.split(chunk, np.cumsum(window)[:-1])]
        return [batches[i] for i in rng.permutation(len(batches))]

    def following(self, position: Position) -> Iterator[tuple[Position, list[int]]]:
        """Batches from `position` on, each with the position that comes after it."""
        epoch, start, _ = position
        while True:
            batches = self.batches(epoch)
            for number in range(start, len(batches)):
                after = Position(epoch, number + 1)
                if number + 1 == len(batches):
                    after = Position(epoch + 1, 0)
                yield after, batches[number]
            epoch, start = epoch + 1, 0


def padding_share(n_frames: NDArray[np.int64], batches: Sequence[Sequence[int]]) -> float:
    """The share of a batch's frames that is padding, over all batches."""
    real = sum(int(n_frames[b].sum()) for b in batches)
    padded = sum(int(n_frames[b].max()) * len(b) for b in batches)
    return 1 - real / padded


def split_batch(indices: Sequence[int], rank: int, world_size: int, parts: int) -> list[list[int]]:
    """This worker's micro-batches of a batch: every `world_size * parts`-th utterance.

    Raises:
        UserError: the batch has fewer utterances than there are micro-batches.
    """
    if len(indices) < world_size * parts:
        raise UserError(
            f"a batch of {len(indices)} utterances does not split into {world_size} workers "
            f"x {parts} micro-batches; lower ray.workers or training.accumulate"
        )
    return [list(indices[rank * parts + k :: world_size * parts]) for k in range(parts)]


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

"""Batches: everything once an epoch, little padding, the same for any number of workers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.synthetic import padding_share
from dimts.core.errors import UserError
from dimts.families.acoustic.dataset import FRAME_MULTIPLE, TOKEN_MULTIPLE, Corpus
from dimts.training.loader import prefetch
from dimts.training.sampler import BucketSampler, Position, split_batch

CORPUS_FRAMES = (547, 5.51, 0.237)
"""Of the sample corpus's training split: utterances, mean and deviation of log(frames)."""
BUDGETS = (0, 1500)
"""Units of a batch; 0 counts utterances."""


def frames(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Lengths spread like those of spoken sentences."""
    _, mean, deviation = CORPUS_FRAMES
    return np.exp(np.random.default_rng(seed).normal(mean, deviation, n)).astype(np.int64) + 1


@given(n=st.integers(1, 300), batch_size=st.integers(1, 40), seed=st.integers(0, 99))
def test_epoch_visits_every_utterance_once(n: int, batch_size: int, seed: int) -> None:
    sampler = BucketSampler(frames(n), batch_size, seed)
    for epoch in (0, 3):
        batches = sampler.batches(epoch)
        assert sorted(itertools.chain(*batches)) == list(range(n))
        assert len(batches) == sampler.batches_of(epoch)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1, "a worker may be left without"


@given(n=st.integers(1, 200), budget=st.integers(1, 4000), seed=st.integers(0, 99))
def test_budget_is_kept_by_all_but_single_utterances(n: int, budget: int, seed: int) -> None:
    lengths = frames(n)
    sampler = BucketSampler(lengths, 8, seed, budget)
    for epoch in (0, 3):
        batches = sampler.batches(epoch)
        assert sorted(itertools.chain(*batches)) == list(range(n))
        assert len(batches) == sampler.batches_of(epoch)
        for batch in batches:
            assert len(batch) == 1 or lengths[batch].max() * len(batch) <= budget
    longest = sampler.longest_batch()
    assert lengths[longest].min() >= np.sort(lengths)[-len(longest) :].min()
    assert len(longest) == sampler.smallest_batch or len(longest) == n


def test_batches_of_a_budget_are_full_and_padded_little() -> None:
    lengths, budget = frames(CORPUS_FRAMES[0]), 4000
    batches = BucketSampler(lengths, 8, 0, budget).batches(1)
    assert lengths.sum() / (len(batches) * budget) > 0.9
    assert padding_share(lengths, batches) <= 0.06


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    lengths = frames(100)
    for budget in BUDGETS:
        one = BucketSampler(lengths, 8, 1, budget)
        assert one.batches(0) != one.batches(1)
        assert one.batches(0) == BucketSampler(lengths, 8, 1, budget).batches(0)
        assert one.batches(0) != BucketSampler(lengths, 8, 2, budget).batches(0)


@given(data=st.data(), world_size=st.integers(1, 4), parts=st.integers(1, 3))
def test_batch_is_shared_out_whole(data: st.DataObject, world_size: int, parts: int) -> None:
    size = data.draw(st.integers(world_size * parts, 40))
    batch = list(range(100, 100 + size))
    shares = [split_batch(batch, rank, world_size, parts) for rank in range(world_size)]
    assert sorted(itertools.chain(*itertools.chain(*shares))) == batch
    sizes = [len(part) for share in shares for part in share]
    assert max(sizes) - min(sizes) <= 1


def test_batch_too_small_for_the_workers_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch of 3 utterances .* 2 workers x 2 micro-batches"):
        split_batch([1, 2, 3], 0, 2, 2)


@given(taken=st.integers(0, 60), budget=st.sampled_from(BUDGETS))
def test_position_is_all_there_is_to_remember(taken: int, budget: int) -> None:
    lengths = frames(50)
    undisturbed = BucketSampler(lengths, 7, 0, budget).following(Position(0, 0))
    seen = [Position(0, 0), *(after for after, _ in itertools.islice(undisturbed, taken))]
    assert BucketSampler(lengths, 7, 0, budget).position_of(taken) == seen[-1]
    resumed = BucketSampler(lengths, 7, 0, budget).following(seen[-1])
    assert list(itertools.islice(resumed, 20)) == list(itertools.islice(undisturbed, 20))


def test_padding_is_at_most_six_percent_of_frames() -> None:
    lengths = frames(CORPUS_FRAMES[0])
    sampler = BucketSampler(lengths, 8, 0)
    shares = [padding_share(lengths, sampler.batches(epoch)) for epoch in range(5)]
    assert max(shares) <= 0.06
    shuffled = np.split(np.random.default_rng(0).permutation(lengths.size)[:544], 68)
    unsorted = padding_share(lengths, [batch.tolist() for batch in shuffled])
    assert unsorted > 0.2, "lengths so alike that nothing was shown"


def test_padding_share_counts_frames() -> None:
    assert padding_share(np.array([1, 3, 4]), [[0, 1], [2]]) == pytest.approx(1 - 8 / 10)


# Collating


class Tones:
    """Three utterances whose mels say which they are."""

    ids = ("a", "b", "c")
    texts = ("x", "yy", "zzz")
    n_frames = np.array([4, 2, 3])

    def __len__(self) -> int:
        return len(self.ids)

    def mel(self, index: int) -> NDArray[np.float32]:
        mel = np.full((int(self.n_frames[index]), 5), index + 1, np.float32)
        mel.setflags(write=False)
        return mel


@pytest.fixture
def corpus() -> Corpus:
    return Corpus(Tones(), [np.array([1, 7, 2]), np.array([1, 2]), np.array([1, 3, 4, 2])])


@pytest.mark.filterwarnings("error")
def test_batch_is_padded_with_zeros(corpus: Corpus) -> None:
    batch = corpus.collate([2, 1])
    assert batch.ids == ["c", "b"]
    assert batch.tokens_BN.tolist() == [[1, 3, 4, 2], [1, 2, 0, 0]]
    assert batch.n_tokens_B.tolist() == [4, 2]
    assert batch.mel_BTM.shape == (2, 3, 5)
    assert batch.mel_BTM[:, :, 0].tolist() == [[3, 3, 3], [2, 2, 0]]
    assert batch.n_frames_B.tolist() == [3, 2]
    assert batch.durations_BNS is None
    assert (batch.size, batch.n_tokens) == (5, 6)


def test_padding_to_a_multiple_changes_the_widths_alone(corpus: Corpus) -> None:
    """On a GPU, where each shape that is new takes long."""
    exact, padded = corpus.collate([0, 2]), corpus.collate([0, 2], pad_to_multiple=True)
    (_, n), (_, t, _) = exact.tokens_BN.shape, exact.mel_BTM.shape
    assert padded.tokens_BN.shape == (2, TOKEN_MULTIPLE)
    assert padded.mel_BTM.shape == (2, FRAME_MULTIPLE, 5)
    assert torch.equal(padded.tokens_BN[:, :n], exact.tokens_BN)
    assert torch.equal(padded.mel_BTM[:, :t], exact.mel_BTM)
    assert not padded.tokens_BN[:, n:].any()
    assert not padded.mel_BTM[:, t:].any()
    assert (padded.size, padded.n_tokens) == (exact.size, exact.n_tokens)


def test_share_of_a_batch_knows_the_totals_of_all(corpus: Corpus) -> None:
    batch = corpus.collate([1], whole=[0, 1, 2])
    assert (batch.size, batch.n_tokens) == (9, 9)


def test_durations_come_with_their_utterance(corpus: Corpus) -> None:
    corpus.durations = [np.full((n, 2), n, np.int32) for n in (3, 2, 4)]
    durations = corpus.collate([1, 0]).durations_BNS
    assert durations is not None
    assert durations[..., 0].tolist() == [[2, 2, 0], [3, 3, 3]]
    assert durations.dtype == torch.long


# Reading ahead


def test_prefetched_items_come_in_order() -> None:
    ahead = prefetch(itertools.count())
    assert list(itertools.islice(ahead, 20)) == list(range(20))
    ahead.close()


def test_prefetching_raises_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise UserError("the disk is gone")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(UserError, match="the disk is gone"):
        next(ahead)


def test_prefetching_ends_when_it_is_closed() -> None:
    ran_in: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        while True:
            ran_in.add(threading.current_thread())
            yield 1

    ahead = prefetch(items())
    next(ahead)
    ahead.close()
    assert len(ran_in) == 1
    assert not any(thread.is_alive() for thread in ran_in)

"""A flat-start aligner: Viterbi training of one Gaussian a token state, as in HTK.

Every token is a chain of states, each with a diagonal Gaussian over the mel frame. From an
equal share of frames a token, segmentation and Gaussians are estimated in turn. A token
rarely seen borrows from those that share its sound: the first state of a syllable from
its consonant, the last from its vowel (the tokenizer's factors), any state from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dimts.families.acoustic.alignment.search import search_one, skippable_states

Float = NDArray[np.float32]
Int = NDArray[np.int64]

ALIGNER_VERSION = 3
"""To be raised when the same corpus and settings would be aligned otherwise."""

VARIANCE_FLOOR = 0.05
"""Of normalised mel units squared: a state seen in few frames must not become a spike."""


class Gaussians(NamedTuple):
    """One diagonal Gaussian a class of states.

    Attributes:
        mean_CM: in the units of the frames.
        variance_CM: in the same units squared.
    """

    mean_CM: Float
    variance_CM: Float


def align_corpus(
    tokens: Sequence[Int],
    mels: Sequence[Float],
    factors_VF: Int,
    n_states: int = 2,
    iterations: int = 12,
    prior_frames: float = 20.0,
    threads: int = 1,
    pause_ids: Sequence[int] = (),
) -> list[NDArray[np.int32]]:
    """Durations of every token state of a corpus, by Viterbi training from a flat start.

    Args:
        tokens: token ids of each utterance, int64 [N].
        mels: normalised log-mel of each utterance, float32 [T, M]; each is asked for in every
            round, and none is held, so it may be made when it is asked for.
        factors_VF: what a token's states borrow from, int64 [n_vocab, F], 0 for none; the
            first factor feeds the first state, the last one the last state.
        n_states: states a token.
        iterations: rounds of segmentation and estimation.
        prior_frames: weight of the borrowed Gaussian, in frames.
        threads: utterances aligned at the same time.
        pause_ids: tokens where a pause may be heard. In fluent speech most are no pause, so
            they may pass over their last state; any other token visits all of its own, or
            the second state of rare ones would never be learned.

    Returns:
        int32 [N, n_states] for each utterance, summing to its frames.

    Raises:
        ValueError: an utterance has fewer frames than states that must be visited.
    """
    states = [_state_classes(ids, n_states) for ids in tokens]
    n_classes = n_states * len(factors_VF)
    tied = _tied_classes(factors_VF, n_states)
    skippable = [
        skippable_states(len(ids), n_states) & np.isin(ids, pause_ids).repeat(n_states)
        for ids in tokens
    ]
    durations = [_equal_share(len(mel), skip) for mel, skip in zip(mels, skippable, strict=True)]
    # The pool uses the cores; threads of the matrix library beneath would fight over them.
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for _ in range(iterations):
            gaussians = _estimate(states, mels, durations, n_classes, tied, prior_frames)

            def segment(n: int, gaussians: Gaussians = gaussians) -> NDArray[np.int32]:
                # The mel is asked for here, not handed over: the pool would hold all of them.
                return _segment(gaussians, states[n], mels[n], skippable[n])

            durations = list(pool.map(segment, range(len(states))))
    return [d.reshape(-1, n_states) for d in durations]


def _state_classes(ids: Int, n_states: int) -> Int:
    return (ids[:, None] * n_states + np.arange(n_states)).reshape(-1)


def _tied_classes(factors_VF: Int, n_states: int) -> Int:
    """The class that each token state borrows from; 0 is the class of all frames."""
    n_vocab, n_factors = factors_VF.shape
    tied = np.zeros((n_vocab, n_states), np.int64)
    if n_factors:
        offset = 1 + int(factors_VF[:, 0].max(initial=0))
        first, last = factors_VF[:, 0], factors_VF[:, -1]
        tied[:, 0] = np.where(first > 0, first, 0)
        tied[:, -1] = np.where(last > 0, last + offset, tied[:, -1])
    return tied.reshape(-1)


def _equal_share(n_frames: int, skippable: NDArray[np.bool_]) -> NDArray[np.int32]:
    if n_frames < (must := np.count_nonzero(~skippable)):
        raise ValueError(f"{n_frames} frames are too few for {must} states that must be visited")
    edges = np.round(np.linspace(0, n_frames, len(skippable) + 1)).astype(np.int32)
    return np.diff(edges)


def _estimate(
    states: Sequence[Int],
    mels: Sequence[Float],
    durations: Sequence[NDArray[np.int32]],
    n_classes: int,
    tied: Int,
    prior_frames: float,
) -> Gaussians:
    """Maximum a posteriori Gaussians: what was seen, drawn towards what is borrowed."""
    n_bins = mels[0].shape[1]
    count = np.zeros(n_classes)
    total = np.zeros((n_classes, n_bins))
    square = np.zeros((n_classes, n_bins))
    for classes, mel, duration in zip(states, mels, durations, strict=True):
        classes, duration = classes[duration > 0], duration[duration > 0]
        starts = np.concatenate(([0], np.cumsum(duration)[:-1]))
        np.add.at(count, classes, duration)
        np.add.at(total, classes, np.add.reduceat(mel, starts, axis=0))
        np.add.at(square, classes, np.add.reduceat(mel * mel, starts, axis=0))
    prior_mean, prior_square = _pooled(count, total, square, tied)
    weight = (count + prior_frames)[:, None]
    mean = (total + prior_frames * prior_mean) / weight
    variance = (square + prior_frames * prior_square) / weight - mean * mean
    return Gaussians(
        mean.astype(np.float32), np.maximum(variance, VARIANCE_FLOOR).astype(np.float32)
    )


def _pooled(
    count: NDArray[np.float64], total: NDArray[np.float64], square: NDArray[np.float64], tied: Int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and second moments of the frames that each class borrows from."""
    n_tied = int(tied.max(initial=0)) + 1
    pool_count = np.bincount(tied, count, n_tied)
    pool_total = np.zeros((n_tied, total.shape[1]))
    pool_square = np.zeros_like(pool_total)
    np.add.at(pool_total, tied, total)
    np.add.at(pool_square, tied, square)
    pool_count[0] = count.sum()
    pool_total[0] = total.sum(0)
    pool_square[0] = square.sum(0)
    divisor = np.maximum(pool_count, 1)[:, None]
    return (pool_total / divisor)[tied], (pool_square / divisor)[tied]


def _segment(
    gaussians: Gaussians, classes: Int, mel: Float, skippable: NDArray[np.bool_]
) -> NDArray[np.int32]:
    mean, precision = gaussians.mean_CM[classes], 1.0 / gaussians.variance_CM[classes]
    constant = (mean * mean * precision + np.log(gaussians.variance_CM[classes])).sum(1)
    scores = mel @ (mean * precision).T - 0.5 * ((mel * mel) @ precision.T + constant)
    return search_one(np.ascontiguousarray(scores, np.float32), skippable)

"""A flat-start aligner: Viterbi training of one Gaussian a token state, as in HTK.

Every token is a chain of states, each with a diagonal Gaussian over the mel frame. From an
equal share of frames a token, segmentation and Gaussians are estimated in turn. A token
rarely seen borrows from those that share its sound: the first state of a syllable from
its consonant, the last from its vowel (the tokenizer's factors), any state from all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

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


def align_corpus(
    tokens: Sequence[Int],
    mel_of: Callable[[int], Float],
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
        mel_of: normalised log-mel of an utterance, float32 [T, M]; asked for in every round, as
            all of a corpus may not fit into memory.
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
    states = [(ids[:, None] * n_states + np.arange(n_states)).reshape(-1) for ids in tokens]
    tied = tied_classes(factors_VF, n_states)
    skippable = [
        skippable_states(len(ids), n_states) & np.isin(ids, pause_ids).repeat(n_states)
        for ids in tokens
    ]
    durations = [_equal_share(len(mel_of(n)), skip) for n, skip in enumerate(skippable)]
    # The pool uses the cores; threads of the matrix library beneath would fight over them.
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for _ in range(iterations):
            mean_CM, variance_CM = estimate(states, mel_of, durations, tied, prior_frames)

            def segment(
                n: int, mean_CM: Float = mean_CM, variance_CM: Float = variance_CM
            ) -> NDArray[np.int32]:
                mean_JM, variance_JM = mean_CM[states[n]], variance_CM[states[n]]
                return _segment(mean_JM, variance_JM, mel_of(n), skippable[n])

            durations = list(pool.map(segment, range(len(states))))
    return [d.reshape(-1, n_states) for d in durations]


def tied_classes(factors_VF: Int, n_states: int) -> Int:
    """The class that each token state borrows from; 0 is the class of all frames."""
    n_vocab, n_factors = factors_VF.shape
    tied = np.zeros((n_vocab, n_states), np.int64)
    if n_factors:
        offset = 1 + int(factors_VF[:, 0].max(initial=0))
        first, last = factors_VF[:, 0], factors_VF[:, -1]
        tied[:, 0] = first
        tied[:, -1] = np.where(last > 0, last + offset, tied[:, -1])
    return tied.reshape(-1)


def _equal_share(n_frames: int, skippable: NDArray[np.bool_]) -> NDArray[np.int32]:
    if n_frames < (must := np.count_nonzero(~skippable)):
        raise ValueError(f"{n_frames} frames are too few for {must} states that must be visited")
    edges = np.round(np.linspace(0, n_frames, len(skippable) + 1)).astype(np.int32)
    return np.diff(edges)


def estimate(
    states: Sequence[Int],
    mel_of: Callable[[int], Float],
    durations: Sequence[NDArray[np.int32]],
    tied: Int,
    prior_frames: float,
) -> tuple[Float, Float]:
    """Mean and variance of each class, [C, M]; maximum a posteriori: what was seen, drawn towards
    what is borrowed."""
    # Frames of each class, the sums of their values and those of the squares.
    seen = np.zeros((len(tied), 1 + 2 * mel_of(0).shape[1]))
    for n, (classes, duration) in enumerate(zip(states, durations, strict=True)):
        mel = mel_of(n)
        classes, duration = classes[duration > 0], duration[duration > 0]
        starts = np.cumsum(duration) - duration
        sums = (np.add.reduceat(values, starts, axis=0) for values in (mel, mel * mel))
        np.add.at(seen, classes, np.hstack((duration[:, None], *sums)))
    pool = np.zeros((int(tied.max(initial=0)) + 1, seen.shape[1]))
    np.add.at(pool, tied, seen)
    pool[0] = seen.sum(0)
    borrowed = (pool / np.maximum(pool[:, :1], 1))[tied]
    moments = (seen + prior_frames * borrowed)[:, 1:] / (seen[:, :1] + prior_frames)
    mean, square = np.hsplit(moments, 2)
    variance = np.maximum(square - mean * mean, VARIANCE_FLOOR)
    return mean.astype(np.float32), variance.astype(np.float32)


def _segment(
    mean_JM: Float, variance_JM: Float, mel_TM: Float, skippable_J: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Frames in each state on the likeliest path."""
    return search_one(frame_scores(mean_JM, variance_JM, mel_TM), skippable_J)


def frame_scores(mean_JM: Float, variance_JM: Float, mel_TM: Float) -> Float:
    """Log-likelihood of each frame in each state, [T, J], without the constant of all states."""
    precision_JM = 1.0 / variance_JM
    constant_J = (mean_JM * mean_JM * precision_JM + np.log(variance_JM)).sum(1)
    scores_TJ = mel_TM @ (mean_JM * precision_JM).T
    scores_TJ -= 0.5 * ((mel_TM * mel_TM) @ precision_JM.T + constant_J)
    return np.ascontiguousarray(scores_TJ, np.float32)

"""Monotonic alignment search: the best left-to-right path of states through frames.

The dynamic programme of Glow-TTS (Kim et al. 2020, algorithm 1), which is Viterbi decoding
of a hidden Markov model without transition costs. A token is a chain of states. States may be
marked as ones that can be passed over, so that a short token need not visit all of its own.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

FORBIDDEN = np.float32(-1e30)


def skippable_states(n_tokens: int, n_states: int) -> NDArray[np.bool_]:
    """Which states of a text may be passed over, bool [n_tokens * n_states].

    A token takes one frame at least; its last state may be passed over if it has several.
    """
    last = np.arange(n_tokens * n_states) % n_states == n_states - 1
    return last & (n_states > 1)


def must_visit(n_states: int) -> int:
    """States of a token that no path passes over; as many frames as that it has at least."""
    return max(1, n_states - 1)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def search_one(
    scores_TJ: NDArray[np.float32], skippable_J: NDArray[np.bool_]
) -> NDArray[np.int32]:  # pragma: no cover - compiled
    """Frames spent in each state on the path of the highest summed score.

    Args:
        scores_TJ: log-likelihood of frame t in state j.
        skippable_J: states that the path may pass over.

    Returns:
        int32 [J], summing to T; at least 1 wherever `skippable_J` is false. All zeros when
        there are fewer frames than states that must be visited.
    """
    n_frames, n_states = scores_TJ.shape
    durations = np.zeros(n_states, np.int32)
    best = np.full(n_states, FORBIDDEN, np.float32)
    came_from = np.zeros((n_frames, n_states), np.int16)
    for j in range(n_states):
        best[j] = scores_TJ[0, j]
        if not skippable_J[j]:
            break
    for t in range(1, n_frames):
        # The best way into state j from one before it, passing over what may be passed over.
        enter, step = FORBIDDEN, 0
        for j in range(n_states):
            stay = best[j]
            if enter > stay:
                best[j] = enter + scores_TJ[t, j]
                came_from[t, j] = step
            elif stay > FORBIDDEN:
                best[j] = stay + scores_TJ[t, j]
            if skippable_J[j] and enter > stay:
                step += 1
            else:
                enter, step = stay, 1
    last, score = -1, FORBIDDEN
    for j in range(n_states - 1, -1, -1):
        if best[j] > score:
            last, score = j, best[j]
        if not skippable_J[j]:
            break
    if last < 0:
        return durations
    for t in range(n_frames - 1, -1, -1):
        durations[last] += 1
        last -= came_from[t, last]
    return durations


@numba.njit(cache=True, nogil=True)
def search(
    scores_BTJ: NDArray[np.float32],
    n_frames_B: NDArray[np.int64],
    n_states_B: NDArray[np.int64],
    skippable_J: NDArray[np.bool_],
) -> NDArray[np.int32]:  # pragma: no cover - compiled
    """`search_one` for a padded batch: frames in each state, int32 [B, J].

    Raises:
        ValueError: an utterance has fewer frames than states that must be visited.
    """
    durations_BJ = np.zeros((scores_BTJ.shape[0], scores_BTJ.shape[2]), np.int32)
    for b in range(len(scores_BTJ)):
        n = n_states_B[b]
        durations_BJ[b, :n] = search_one(scores_BTJ[b, : n_frames_B[b], :n], skippable_J[:n])
        if durations_BJ[b].sum() != n_frames_B[b]:
            raise ValueError("an utterance has too few frames for its states")
    return durations_BJ

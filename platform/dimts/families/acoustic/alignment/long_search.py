"""Viterbi search of texts in a recording of any length, with gaps between them that fit any sound.

The states of all texts stand in one chain: a gap, the states of the first text, a gap, and so on.
From a gap the path enters the text behind it or passes over that text to the next gap. Frame by
frame only the texts of a band are searched, window by window, so that time is linear in the length
and memory is that of one window.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from dimts.families.acoustic.alignment.search import FORBIDDEN

GAP = -1
"""The class of a gap's state."""
SKIP_COST = np.float32(8.0)
"""Of passing over a text, in nats: enough that noise alone does not."""
WINDOW, COMMITTED = 16_000, 12_000
"""Frames that are searched at once, and those of them whose path then stays."""
_SKIPPED = np.int8(-1)

Int32 = NDArray[np.int32]
Float = NDArray[np.float32]
Scores = Callable[[int, int], Float]


def search_long(
    scores_of: Scores,
    class_S: Int32,
    skippable_S: NDArray[np.bool_],
    band_T2: Int32,
) -> Int32:
    """The state of each frame on the likeliest path from the first gap to the last, int32 [T].

    Args:
        scores_of: of frames from a first to before a last: log-likelihoods of the classes, from
            which that of a gap is taken away, [T, C].
        class_S: class of each state, `GAP` of a gap.
        skippable_S: states that the path may pass over; no gap is.
        band_T2: for each frame the first state that is searched and the one after the last, both
            never falling; the first ones are gaps.
    """
    n_frames = len(band_T2)
    path_T = np.empty(n_frames, np.int32)
    at, state = 0, 0
    while at < n_frames:
        stop = min(n_frames, at + WINDOW)
        keep = stop if stop == n_frames else at + COMMITTED
        window = _search_window(
            scores_of(at, stop), class_S, skippable_S, band_T2[at:stop], state, stop == n_frames
        )
        path_T[at:keep] = window[: keep - at]
        at, state = keep, int(window[keep - at - 1])
    return path_T


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _search_window(
    scores_TC: Float,
    class_S: Int32,
    skippable_S: NDArray[np.bool_],
    band_T2: Int32,
    before: int,
    is_last: bool,
) -> Int32:  # pragma: no cover - compiled
    """The path of a window's frames; `before` is the state of the frame before it."""
    n_frames = len(scores_TC)
    base = min(before, band_T2[0, 0])
    end = band_T2[n_frames - 1, 1]
    width = 0
    for t in range(n_frames):
        width = max(width, band_T2[t, 1] - band_T2[t, 0])
    came_from = np.zeros((n_frames, width), np.int8)
    best = np.full(end - base, FORBIDDEN, np.float32)
    best[before - base] = 0.0
    for t in range(n_frames):
        low, high = band_T2[t, 0], band_T2[t, 1]
        # The best way into a state from one of the frame before, and from a gap of this frame.
        enter, step, skipped = FORBIDDEN, 0, FORBIDDEN
        if t == 0 and before < low:  # the band has moved on
            enter, step = np.float32(0.0), 1
        for j in range(low, high):
            stay = best[j - base]
            code = np.int8(0)
            score = stay
            if enter > stay:
                score, code = enter, np.int8(step)
            c = class_S[j]
            if c == GAP:
                if skipped - SKIP_COST > score:
                    score, code = skipped - SKIP_COST, _SKIPPED
                skipped = score
            elif score > FORBIDDEN:
                score += scores_TC[t, c]
            best[j - base] = score
            came_from[t, j - low] = code
            if skippable_S[j] and enter > stay:
                step += 1
            else:
                enter, step = stay, 1
    low, high = band_T2[n_frames - 1, 0], band_T2[n_frames - 1, 1]
    state = high - 1
    if not is_last:
        for j in range(low, high):
            if best[j - base] > best[state - base]:
                state = j
    path_T = np.empty(n_frames, np.int32)
    for t in range(n_frames - 1, -1, -1):
        low = band_T2[t, 0]
        while came_from[t, state - low] == _SKIPPED:
            state -= 1
            while class_S[state] != GAP:
                state -= 1
        path_T[t] = state
        state -= came_from[t, state - low]
    return path_T

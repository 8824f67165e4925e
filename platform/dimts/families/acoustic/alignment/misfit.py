"""How badly a text fits its recording, by the Gaussians of the flat-start aligner.

A forced alignment is compared with the best that any text could reach, frame by frame, as in the
goodness of pronunciation (Witt and Young 2000).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dimts.families.acoustic.alignment.em import Float, Int, estimate, frame_scores, tied_classes


def misfits(
    tokens: Sequence[Int],
    mel_of: Callable[[int], Float],
    durations: Sequence[NDArray[np.int32]],
    factors_VF: Int,
    prior_frames: float = 20.0,
) -> NDArray[np.float64]:
    """Of each utterance, float64 [n]: 0 where no text would fit better, 1 where the text says no
    more of the recording than the mean of all frames does.

    Args:
        tokens: token ids of each utterance, int64 [N].
        mel_of: normalised log-mel of an utterance, float32 [T, M].
        durations: what `align_corpus` has made of them, int32 [N, n_states].
        factors_VF, prior_frames: as there.
    """
    n_states = durations[0].shape[1]
    states = [(ids[:, None] * n_states + np.arange(n_states)).reshape(-1) for ids in tokens]
    frames = [d.reshape(-1) for d in durations]
    tied = tied_classes(factors_VF, n_states)
    mean_CM, variance_CM = estimate(states, mel_of, frames, tied, prior_frames)
    heard = np.unique(np.concatenate(states))
    place = np.zeros(len(tied), np.int64)
    place[heard] = np.arange(len(heard))
    mean_CM, variance_CM = mean_CM[heard], variance_CM[heard]
    everything = [np.zeros_like(classes) for classes in states]
    mean_1M, variance_1M = estimate(everything, mel_of, frames, np.zeros(1, np.int64), 0.0)
    scores = np.empty(len(tokens))
    for n, (classes, duration) in enumerate(zip(states, frames, strict=True)):
        mel_TM = mel_of(n)
        scores_TC = frame_scores(mean_CM, variance_CM, mel_TM)
        forced = scores_TC[np.arange(len(mel_TM)), np.repeat(place[classes], duration)]
        best = scores_TC.max(axis=1)
        of_all = frame_scores(mean_1M, variance_1M, mel_TM)[:, 0]
        scores[n] = (best - forced).mean() / max(float((best - of_all).mean()), 1e-6)
    return scores

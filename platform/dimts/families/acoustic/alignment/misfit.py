"""How badly a text fits its recording, by the Gaussians of the flat-start aligner.

A forced alignment is compared with the best that any text could reach, frame by frame, as in the
goodness of pronunciation (Witt and Young 2000), and with what others reach on the same recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dimts.families.acoustic.alignment.em import Float, Int, estimate, frame_scores, tied_classes
from dimts.families.acoustic.alignment.search import search_one, skippable_states

N_OTHERS = 16
"""Texts that a recording is compared with."""


def misfits(
    tokens: Sequence[Int],
    mel_of: Callable[[int], Float],
    durations: Sequence[NDArray[np.int32]],
    factors_VF: Int,
    prior_frames: float = 20.0,
    pause_ids: Sequence[int] = (),
    threads: int = 1,
) -> NDArray[np.float64]:
    """Of each utterance, float64 [n]: 0 where no text would fit better, 1 where the best of
    `N_OTHERS` texts of similar length fits as well.

    Args:
        tokens: token ids of each utterance, int64 [N].
        mel_of: normalised log-mel of an utterance, float32 [T, M].
        durations: what `align_corpus` has made of them, int32 [N, n_states].
        factors_VF, prior_frames, pause_ids, threads: as there.
    """
    n_states = durations[0].shape[1]
    states = [(ids[:, None] * n_states + np.arange(n_states)).reshape(-1) for ids in tokens]
    frames = [d.reshape(-1) for d in durations]
    mean_CM, variance_CM = estimate(
        states, mel_of, frames, tied_classes(factors_VF, n_states), prior_frames
    )
    heard, places = np.unique(np.concatenate(states), return_inverse=True)
    place = np.split(places, np.cumsum([len(classes) for classes in states])[:-1])
    mean_CM, variance_CM = mean_CM[heard], variance_CM[heard]
    everything = [np.zeros_like(classes) for classes in states]
    mean_1M, variance_1M = estimate(everything, mel_of, frames, np.zeros(1, np.int64), 0.0)
    skippable = [
        skippable_states(len(ids), n_states) & np.isin(ids, pause_ids).repeat(n_states)
        for ids in tokens
    ]
    others = of_similar_length(tokens)

    def score(n: int) -> float:
        mel_TM = mel_of(n)
        scores_TC = frame_scores(mean_CM, variance_CM, mel_TM)
        reached = [float(frame_scores(mean_1M, variance_1M, mel_TM).mean())]
        for other in (n, *others[n]):
            if len(mel_TM) >= np.count_nonzero(~skippable[other]):
                scores_TJ = np.ascontiguousarray(scores_TC[:, place[other]])
                reached.append(forced_score(scores_TJ, skippable[other]))
        return misfit(float(scores_TC.max(axis=1).mean()), reached.pop(1), reached)

    with ThreadPoolExecutor(threads) as pool:
        return np.array(list(pool.map(score, range(len(tokens)))))


def misfit(best: float, own: float, others: Sequence[float]) -> float:
    """0 where a text reaches the best score of all texts, 1 where it reaches that of the best of
    some others."""
    return (best - own) / max(best - max(others), 1e-6)


def forced_score(scores_TJ: Float, skippable_J: NDArray[np.bool_]) -> float:
    """Mean score of a recording's frames, [T, J], on the likeliest path through a text's states."""
    durations = search_one(scores_TJ, skippable_J)
    path = np.repeat(np.arange(len(durations)), durations)
    return float(scores_TJ[np.arange(len(path)), path].mean())


def of_similar_length(tokens: Sequence[Int], speakers: Sequence[str] = ()) -> list[list[int]]:
    """Of each text, `N_OTHERS` others of its speaker, if that is given, that say something else, by
    the nearest numbers of tokens; fewer where there are too few."""
    names = speakers or [""] * len(tokens)
    found: list[list[int]] = [[] for _ in tokens]
    for name in {*names}:
        own = (n for n in range(len(tokens)) if names[n] == name)
        order = sorted(own, key=lambda n: len(tokens[n]))
        for at, n in enumerate(order):
            near = (p for step in range(1, 2 * N_OTHERS) for p in (at - step, at + step))
            others = (order[p] for p in near if 0 <= p < len(order))
            said = tokens[n].tolist()
            found[n] = [o for o in others if tokens[o].tolist() != said][:N_OTHERS]
    return found

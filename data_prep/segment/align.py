"""Where each sentence of a text is in a long recording, learned from that recording alone.

From a rough start (`data_prep.segment.rough`) Gaussians of the letters are trained as by the
flat-start aligner, then all sentences are searched in the whole recording, with gaps between them
that any sound fits; what is found trains the Gaussians again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.segment.rough import find_roughly
from data_prep.segment.sound import FRAMES_A_SECOND, Sound, runs
from dimts.families.acoustic.alignment.em import estimate, frame_scores, tied_classes
from dimts.families.acoustic.alignment.long_search import GAP, WINDOW, Int32, search_long
from dimts.families.acoustic.alignment.search import search_one
from dimts.text.tokenizer import Tokenizer

N_STATES, PRIOR_FRAMES = 2, 20.0
FLAT_ROUNDS = 6
BANDS = (25, 10, 10)
"""Sentences to either side that are searched, in each round."""
FILLER = 0.5
"""How close to the best sounds a gap comes, 0: as all sounds do on average, 1: as the best."""
PAUSE = -1
"""The token of a pause between words."""

Float = NDArray[np.float32]


class Found(NamedTuple):
    """Where a sentence is.

    Attributes:
        start, end: frames, from the first of its first letter to after the last of its last.
        confidence: 1 where no sounds fit better than its letters, 0 where they fit no better than
            the same letters backwards.
    """

    start: int
    end: int
    confidence: float


class _Chain(NamedTuple):
    """States of sentences, or of a recording's whole text."""

    classes: Int32
    skippable: NDArray[np.bool_]


def align(
    sound: Sound,
    sentences: Sequence[NDArray[np.int64]],
    times: Sequence[float],
    tokenizer: Tokenizer,
) -> list[Found | None]:
    """Each sentence's place, None if it is not spoken.

    Args:
        sentences: tokens of the letters, `PAUSE` between words; at least one letter each.
        times: seconds at which each begins, NaN if that is not known.
    """
    n_classes = tokenizer.n_vocab * N_STATES
    pause = n_classes
    tied = np.append(tied_classes(tokenizer.factors, N_STATES), 0)
    chains = [_chain(tokens, pause) for tokens in sentences]
    spans = _rough_spans(sound, sentences, times)
    taught = _flat_start(sound, chains, spans, tied, pause)
    heard = np.unique(np.concatenate([chain.classes for chain in chains] + [[pause]]))
    place = np.zeros(n_classes + 1, np.int32)
    place[heard] = np.arange(len(heard))
    class_S, skippable_S, gaps = _whole(chains, place)
    for band in BANDS:
        scores = _Scores(sound, taught, tied, heard, place)
        band_T2 = _band(spans, gaps, len(sound.cepstra_TD), band)
        path_T = search_long(scores.over_gap, class_S, skippable_S, band_T2)
        spans = _spans(path_T, gaps)
        taught = scores.taught_by(path_T, class_S)
    found: list[Found | None] = []
    for span, tokens in zip(spans, sentences, strict=True):
        if span is None:
            found.append(None)
            continue
        classes_T, backwards = class_S[path_T[slice(*span)]], _chain(tokens[::-1], pause)
        found.append(Found(*span, scores.confidence(span[0], classes_T, backwards)))
    return found


Span = tuple[int, int] | None
Taught = tuple[NDArray[np.int64], NDArray[np.int32], Float]
"""Classes, how many frames in a row are of each, and all those frames."""


def _chain(tokens: NDArray[np.int64], pause: int) -> _Chain:
    classes, skippable = [], []
    for token in tokens:
        if token == PAUSE:
            classes.append(pause)
            skippable.append(True)
        else:
            classes += [token * N_STATES + n for n in range(N_STATES)]
            skippable += [False] * N_STATES
    return _Chain(np.array(classes, np.int32), np.array(skippable))


def _whole(
    chains: Sequence[_Chain], place: Int32
) -> tuple[Int32, NDArray[np.bool_], NDArray[np.int64]]:
    """Classes and skippable states of gaps and sentences in turn; where the gaps are, [n + 1]."""
    classes: list[NDArray[np.int32]] = []
    skippable: list[NDArray[np.bool_]] = []
    for chain in chains:
        classes += [np.array([GAP], np.int32), place[chain.classes]]
        skippable += [np.zeros(1, bool), chain.skippable]
    classes.append(np.array([GAP], np.int32))
    skippable.append(np.zeros(1, bool))
    joined = np.concatenate(classes)
    return joined, np.concatenate(skippable), np.flatnonzero(joined == GAP)


def _rough_spans(
    sound: Sound, sentences: Sequence[NDArray[np.int64]], times: Sequence[float]
) -> list[Span]:
    islands = runs(sound.sounds_T)
    letters = np.array([max(1, np.count_nonzero(s != PAUSE)) for s in sentences], float)
    found = find_roughly(letters, islands / FRAMES_A_SECOND, np.array(times, float)).islands_N2
    return [
        (int(islands[first, 0]), int(islands[last - 1, 1])) if last > first else None
        for first, last in found
    ]


def _flat_start(
    sound: Sound,
    chains: Sequence[_Chain],
    spans: Sequence[Span],
    tied: NDArray[np.int64],
    pause: int,
) -> Taught:
    """Viterbi training on the sentences that are roughly known, each in its span."""
    known = [
        (chain, sound.cepstra_TD[span[0] : span[1]], sound.sounds_T[span[0] : span[1]])
        for chain, span in zip(chains, spans, strict=True)
        if span and span[1] - span[0] >= np.count_nonzero(~chain.skippable)
    ]
    silence = sound.cepstra_TD[~sound.sounds_T]
    classes = [chain.classes.astype(np.int64) for chain, _, _ in known] + [np.array([pause])]
    frames = [cepstra for _, cepstra, _ in known] + [silence]
    durations = []
    for chain, cepstra, _ in known:
        must = ~chain.skippable
        duration = np.zeros(len(must), np.int32)
        edges = np.round(np.linspace(0, len(cepstra), must.sum() + 1)).astype(np.int32)
        duration[must] = np.diff(edges)
        durations.append(duration)
    durations.append(np.array([len(silence)], np.int32))
    for _ in range(FLAT_ROUNDS):
        mean_CD, variance_CD = estimate(classes, frames.__getitem__, durations, tied, PRIOR_FRAMES)
        for n, (chain, cepstra, _) in enumerate(known):
            states = chain.classes
            scores_TJ = frame_scores(mean_CD[states], variance_CD[states], cepstra)
            durations[n] = search_one(scores_TJ, chain.skippable)
    return np.concatenate(classes), np.concatenate(durations), np.concatenate(frames)


def _band(spans: Sequence[Span], gaps: NDArray[np.int64], n_frames: int, margin: int) -> Int32:
    """States that are searched at each frame: those of sentences around where they are known."""
    known = [(n, span) for n, span in enumerate(spans) if span]
    frames = [0.0] + [float(at) for _, span in known for at in span] + [float(n_frames)]
    numbers = [0.0] + [float(n + after) for n, _ in known for after in (0, 1)] + [float(len(spans))]
    at_T = np.interp(np.arange(n_frames), frames, numbers)
    low = np.clip(np.floor(at_T).astype(int) - margin, 0, len(spans))
    high = np.clip(np.ceil(at_T).astype(int) + margin, 0, len(spans))
    return np.stack((gaps[low], gaps[high] + 1), axis=1).astype(np.int32)


class _Scores:
    """Log-likelihoods of letters, a pause and a gap."""

    def __init__(
        self,
        sound: Sound,
        taught: Taught,
        tied: NDArray[np.int64],
        heard: NDArray[np.int64],
        place: Int32,
    ) -> None:
        classes, durations, frames = taught
        mean_CD, variance_CD = estimate(
            [classes], lambda _: frames, [durations], tied, PRIOR_FRAMES
        )
        self._mean_CD, self._variance_CD = mean_CD[heard], variance_CD[heard]
        self._cepstra_TD, self._heard, self._place = sound.cepstra_TD, heard, place
        self._pause = int(place[-1])
        speech = sound.cepstra_TD[sound.sounds_T]
        self._all = speech.mean(axis=0)[None], speech.var(axis=0)[None]

    def over_gap(self, start: int, stop: int) -> Float:
        """Of each class, how much likelier it is than a gap, [T, C]."""
        scores_TC, gap_T, _, _ = self._of(start, stop)
        scores_TC -= gap_T[:, None]
        return scores_TC

    def _of(self, start: int, stop: int) -> tuple[Float, Float, Float, Float]:
        frames = self._cepstra_TD[start:stop]
        scores_TC = frame_scores(self._mean_CD, self._variance_CD, frames)
        of_all_T = frame_scores(*self._all, frames)[:, 0]
        best_T = np.delete(scores_TC, self._pause, axis=1).max(axis=1)
        filler_T = of_all_T + FILLER * np.maximum(best_T - of_all_T, 0)
        gap_T = np.maximum(filler_T, scores_TC[:, self._pause])
        return scores_TC, gap_T, best_T, of_all_T

    def confidence(self, start: int, classes_T: Int32, backwards: _Chain) -> float:
        """How much better than the same letters backwards those of a path fit, of what is possible.

        Letters that were learned from wrong texts fit those no better than others.
        """
        scores_TC, *_ = self._of(start, start + len(classes_T))
        best_T = scores_TC.max(axis=1)
        frames = np.arange(len(classes_T))
        away = float((best_T - scores_TC[frames, classes_T]).mean())
        scores_TJ = np.ascontiguousarray(scores_TC[:, self._place[backwards.classes]])
        states_T = np.repeat(
            np.arange(scores_TJ.shape[1]), search_one(scores_TJ, backwards.skippable)
        )
        of_others = float((best_T - scores_TJ[frames, states_T]).mean())
        return float(np.clip(1 - away / max(of_others, 1e-6), 0, 1))

    def taught_by(self, path_T: Int32, class_S: Int32) -> Taught:
        """What a path teaches: letters and pauses; other sounds in gaps teach nothing."""
        classes_T = class_S[path_T]
        gaps_T = classes_T == GAP
        for start in range(0, len(path_T), WINDOW):
            part = slice(start, start + WINDOW)
            scores_TC, gap_T, _, _ = self._of(start, start + WINDOW)
            is_pause = gaps_T[part] & (scores_TC[:, self._pause] >= gap_T)
            classes_T[part][is_pause] = self._pause
        teaches = classes_T != GAP
        kept = classes_T[teaches]
        starts = np.flatnonzero(np.diff(kept, prepend=-2))
        durations = np.diff(starts, append=len(kept)).astype(np.int32)
        return self._heard[kept[starts]].astype(np.int64), durations, self._cepstra_TD[teaches]


def _spans(path_T: Int32, gaps: NDArray[np.int64]) -> list[Span]:
    """First frame of each sentence on a path and the one after its last."""
    spans: list[Span] = [None] * (len(gaps) - 1)
    number_T = np.searchsorted(gaps, path_T, side="right") - 1
    number_T[np.isin(path_T, gaps)] = -1
    starts = np.flatnonzero(np.diff(number_T, prepend=-2))
    for start, end in zip(starts, np.append(starts[1:], len(path_T)), strict=True):
        if number_T[start] >= 0:
            spans[number_T[start]] = int(start), int(end)
    return spans

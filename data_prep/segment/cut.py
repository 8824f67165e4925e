"""Utterances as voices learn from, cut in pauses, out of the parts that were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import median_filter

from data_prep.segment.align import Found
from data_prep.segment.sound import FRAMES_A_SECOND, Sound, runs
from data_prep.segment.texts import Part
from dimts.core.config import Config

MARGIN = 6
"""Frames of a pause that are kept at either end of an utterance, as `prepare.trim` keeps them."""
MAX_GAP_SECONDS = 1.2
"""Of a pause inside an utterance of several parts."""
MAX_STRANGE = 30
"""Frames of sound between two parts that belong to neither, such as a breath."""
SHOWN_SECONDS = 1.0
"""Of sound without a text that is listed."""

AROUND, MORE_AROUND = 21, 0.1
"""Sentences by whose median one is judged, too, and by how much that is above the limit: a wrong
text seems to be spoken here and there, but never sentence by sentence."""

_INSIDE, _OUTSIDE = 15, 60
"""Frames from the end of a part within which its pause begins, into the part and away from it."""


class CutConfig(Config):
    """What an utterance has to be."""

    min_seconds: float = Field(1.5, gt=0, description="shortest utterance")
    max_seconds: float = Field(12.0, gt=0, description="longest utterance")
    min_confidence: float = Field(0.4, ge=0, le=1, description="of each sentence; 1 is best")

    @model_validator(mode="after")
    def _fits_together(self) -> CutConfig:
        if self.min_seconds >= self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} must be below max_seconds {self.max_seconds:g}"
            )
        return self


class Piece(NamedTuple):
    """A part of a recording in seconds, its text, and the lowest confidence of its sentences."""

    start: float
    end: float
    text: str
    confidence: float


class LeftOut(NamedTuple):
    """What is not used: a text, sound, or both; times are None where nobody knows them."""

    start: float | None
    end: float | None
    text: str
    reason: str


class _Pause(NamedTuple):
    """A pause in frames: the first one and the one after the last."""

    start: int
    end: int


_Borders = tuple[_Pause | None, _Pause | None]


def cut(
    sound: Sound, parts: Sequence[Part], found: Sequence[Found | None], config: CutConfig
) -> tuple[list[Piece], list[LeftOut]]:
    """Utterances of a recording in their order, and what is left out of sound and text."""
    left = [
        LeftOut(None, None, part.text, "not_spoken")
        for part, place in zip(parts, found, strict=True)
        if place is None
    ]
    borders = _borders(runs(~sound.sounds_T), found)
    doubted = _doubted(found, config.min_confidence)
    pieces: list[Piece] = []
    chain: list[int] = []
    for n, place in enumerate(found):
        if place is None:
            continue
        if n in doubted:
            left.append(_left(place, place, parts[n].text, "low_confidence"))
            continue
        if chain and not _follow(sound, found[chain[-1]], place, chain[-1] + 1 == n):
            _cut_chain(parts, found, chain, borders, config, pieces, left)
            chain = []
        chain.append(n)
    _cut_chain(parts, found, chain, borders, config, pieces, left)
    return pieces, left + _without_text(sound, pieces, left)


def _doubted(found: Sequence[Found | None], min_confidence: float) -> set[int]:
    """Parts that are not heard where they are, or stand where the text is that of another hour."""
    there = [(n, place.confidence) for n, place in enumerate(found) if place]
    around = median_filter([confidence for _, confidence in there], AROUND, mode="nearest")
    return {
        n
        for (n, confidence), median in zip(there, around, strict=True)
        if confidence < min_confidence or median < min_confidence + MORE_AROUND
    }


def _follow(sound: Sound, before: Found | None, after: Found, is_next: bool) -> bool:
    """Whether two parts may be one utterance: nothing but a pause is between them."""
    assert before is not None
    between = sound.sounds_T[before.end : after.start]
    quiet = np.count_nonzero(between) <= MAX_STRANGE
    return is_next and bool(quiet) and len(between) <= MAX_GAP_SECONDS * FRAMES_A_SECOND


def _cut_chain(
    parts: Sequence[Part], found: Sequence[Found | None], chain: Sequence[int],
    borders: dict[int, _Borders], config: CutConfig, pieces: list[Piece], left: list[LeftOut],
) -> None:  # fmt: skip
    """Cut parts that follow each other into utterances.

    Dynamic programming over where one begins: as many sentences as can be are alone, none is cut
    that is short enough, and what cannot be cut in a pause is left out.
    """
    places = [place for n in chain if (place := found[n])]
    starts, ends = zip(*(borders[n] for n in chain), strict=True) if chain else ((), ())
    # What parts 0 to i cost at best, and where the last utterance begins; -1: part i is left out.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for i in range(len(places)):
        options = [(best[i][0] + 20.0, -1)]
        for first in range(i, -1, -1):
            start, end = starts[first], ends[i]
            if (places[i].end - places[first].start) / FRAMES_A_SECOND > config.max_seconds:
                break
            if start is None or end is None:
                continue
            seconds = (_last(end) - _first(start)) / FRAMES_A_SECOND
            if config.min_seconds <= seconds <= config.max_seconds:
                inner = range(first, i)
                joined = sum(parts[chain[n]].ends for n in inner)
                gaps = sum(places[n + 1].start - places[n].end for n in inner) / FRAMES_A_SECOND
                cost = 2.0 * joined + gaps + (0.0 if parts[chain[i]].ends else 3.0)
                options.append((best[first][0] + cost, first))
        best.append(min(options))
    i = len(places)
    found_pieces, unused = [], []
    while i:
        first = best[i][1]
        if first < 0:
            i -= 1
            unused.append(i)
            continue
        start, end = starts[first], ends[i - 1]
        assert start and end
        text = " ".join(parts[n].text for n in chain[first:i])
        confidence = min(place.confidence for place in places[first:i])
        found_pieces.append(Piece(
            _first(start) / FRAMES_A_SECOND, _last(end) / FRAMES_A_SECOND, text, confidence
        ))  # fmt: skip
        i = first
    pieces += reversed(found_pieces)
    for i in reversed(unused):
        seconds = (places[i].end - places[i].start) / FRAMES_A_SECOND
        if starts[i] is None or ends[i] is None or seconds >= config.min_seconds:
            reason = "no_pause"
        else:
            reason = "too_short"
        left.append(_left(places[i], places[i], parts[chain[i]].text, reason))


def _left(first: Found, last: Found, text: str, reason: str) -> LeftOut:
    return LeftOut(first.start / FRAMES_A_SECOND, last.end / FRAMES_A_SECOND, text, reason)


def _borders(pauses: NDArray[np.int64], found: Sequence[Found | None]) -> dict[int, _Borders]:
    """The pauses before and after each part that was found; None where there is none."""
    places = [(n, place) for n, place in enumerate(found) if place]
    before, borders = -_OUTSIDE, {}
    for (n, place), (_, after) in zip(places, [*places[1:], (0, None)], strict=True):
        next_start = place.end + _OUTSIDE if after is None else after.start
        borders[n] = (
            _pause(pauses, place.start, 1, max(place.start - _OUTSIDE, before - _INSIDE)),
            _pause(pauses, place.end, 0, min(place.end + _OUTSIDE, next_start + _INSIDE)),
        )
        before = place.end
    return borders


def _pause(pauses: NDArray[np.int64], frame: int, edge: int, limit: int) -> _Pause | None:
    """The pause nearest to the end of a part (`edge` 0) or to its beginning (1), up to a limit."""
    low, high = (frame - _INSIDE, limit) if edge == 0 else (limit, frame + _INSIDE)
    near = pauses[(pauses[:, edge] >= low) & (pauses[:, edge] <= high)]
    if not len(near):  # quiet letters at the edge of a part seem to be in the pause
        near = pauses[(pauses[:, 0] <= frame) & (pauses[:, 1] > frame)]
    if not len(near):
        return None
    start, end = near[np.abs(near[:, edge] - frame).argmin()]
    return _Pause(int(start), int(end))


def _first(pause: _Pause) -> int:
    """Where an utterance begins that follows a pause."""
    return max((pause.start + pause.end) // 2, pause.end - MARGIN)


def _last(pause: _Pause) -> int:
    """Where an utterance ends before a pause."""
    return min((pause.start + pause.end) // 2, pause.start + MARGIN)


def _without_text(sound: Sound, pieces: Sequence[Piece], left: Sequence[LeftOut]) -> list[LeftOut]:
    """Sound that no text was found for, from pause to pause."""
    strange = sound.sounds_T.copy()
    for start, end, *_ in [*pieces, *left]:
        if start is not None and end is not None:
            strange[round(start * FRAMES_A_SECOND) : round(end * FRAMES_A_SECOND)] = False
    joined: list[list[int]] = []
    for first, last in runs(strange).tolist():
        if joined and not sound.sounds_T[joined[-1][1] : first].any():
            joined[-1][1] = last
        else:
            joined.append([first, last])
    return [
        LeftOut(first / FRAMES_A_SECOND, last / FRAMES_A_SECOND, "", "no_text")
        for first, last in joined
        if last - first >= SHOWN_SECONDS * FRAMES_A_SECOND
    ]

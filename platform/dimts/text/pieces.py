"""A normalised text in pieces that a model can speak at once, and the pauses between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_PIECE = 300
"""Characters: about 20 s of speech, the longest that corpora usually have."""
FULL_STOPS = "።.।。۔"
SENTENCE_ENDS = frozenset(FULL_STOPS + "?!؟！？॥")
SENTENCE_PAUSE, CLAUSE_PAUSE = 0.4, 0.2
"""Seconds, at the speed that was learned."""


class Piece(NamedTuple):
    """A part of a text, and the seconds of silence after it."""

    text: str
    pause: float


def pieces(
    text: str, punctuation: str, longest: int = MAX_PIECE, each_sentence: bool = False
) -> Iterator[Piece]:
    """Cut a normalised text where a sentence ends; where one is too long, at weaker marks.

    A piece has as many sentences as fit, or is a single one where `each_sentence`.

    A sentence of more than `longest` characters without a mark is cut between words, and a word
    that is longer anywhere. A text without a mark at its end is given the full stop that
    `punctuation` has, the marks of the language.
    """
    ends = [mark for mark in punctuation if mark in SENTENCE_ENDS]
    others = [mark for mark in punctuation if mark not in SENTENCE_ENDS]
    start = 0
    while each_sentence or len(text) - start > longest:
        window = text[start : start + longest + 1]
        if (end := _first(window, ends) if each_sentence else _last(window, ends)) > 0:
            pause = SENTENCE_PAUSE
        elif len(text) - start <= longest:
            break
        elif (end := _last(window, others)) > 0:
            pause = CLAUSE_PAUSE
        else:
            end, pause = max(window.rfind(" "), 0) or longest, 0.0
        yield Piece(text[start : start + end].strip(), pause)
        start += end + (text[start + end] == " ")
    rest = text[start:]
    if rest and rest[-1] not in punctuation:
        rest += next((mark for mark in punctuation if mark in FULL_STOPS), "")
    yield Piece(rest, 0.0)


def _first(window: str, marks: Sequence[str]) -> int:
    """Where the first word with one of the marks ends; 0 if there is none."""
    found = [at + 1 for mark in marks if (at := window.find(mark + " ")) >= 0]
    return min(found, default=0)


def _last(window: str, marks: Sequence[str]) -> int:
    """Where the last word with one of the marks ends; 0 if there is none."""
    return max((window.rfind(mark + " ") + 1 for mark in marks), default=0)

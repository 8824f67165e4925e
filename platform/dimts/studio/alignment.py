"""Which token of a text is heard when, of voices that know it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.protocol import Speaker
from dimts.text.pieces import pieces


class Aligned(NamedTuple):
    """A spoken mel and its tokens.

    Attributes:
        mel_TM: natural-log.
        durations_N: int64, frames of each token.
        tokens: their names; empty of those that stand for no text.
    """

    mel_TM: NDArray[np.float32]
    durations_N: NDArray[np.int64]
    tokens: list[str]


def alignment(
    speaker: Speaker, text: str, *, language: str | None = None, voice: str | None = None,
    speed: float = 1.0, pitch: float = 1.0,
) -> Aligned | None:  # fmt: skip
    """What `Speaker.speak` speaks by; None of a voice without durations, and of a text that is so
    long that it is spoken in pieces. Raises like `Speaker.speak`."""
    if not isinstance(speaker, AcousticSpeaker):
        return None
    tokenizer, language = speaker.tokenizer, language or speaker.language
    normaliser = tokenizer.normaliser(language)
    marks = "".join(filter(tokenizer.knows, normaliser.language.punctuation))
    piece, *more = pieces(normaliser.normalise(text), marks)
    if more:
        return None
    spoken = speaker.mel(piece.text, speed, language, pitch, voice)
    ids = tokenizer.encode(piece.text, language)
    tokens = ["" if i in tokenizer.special_ids else tokenizer.tokens[i] for i in ids]
    return Aligned(spoken.mel_TM, spoken.durations_NS.sum(-1), tokens)

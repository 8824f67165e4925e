"""Checks of a row's text, alone and against its recording."""

from __future__ import annotations

from typing import NamedTuple

from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.features.config import PrepareConfig
from dimts.text.normaliser import UnknownCharacters
from dimts.text.tokenizer import Tokenizer

MAX_CHARACTERS = 50_000
"""Of a raw text: an hour of speech, and little enough for any rule of the normaliser."""


class Candidate(NamedTuple):
    """An utterance whose row and text are good: its normalised text and the tokens of that."""

    utterance: Utterance
    text: str
    n_tokens: int


def check_text(utterance: Utterance, tokenizer: Tokenizer) -> Candidate | Rejected:
    """Normalise the text; refuse characters that the language does not have, and no words."""
    if len(utterance.text) > MAX_CHARACTERS:
        detail = f"{len(utterance.text)} characters, at most {MAX_CHARACTERS}"
        return utterance.rejected(Reason.TEXT_TOO_LONG_FOR_AUDIO, detail)
    try:
        text = tokenizer.normaliser().normalise(utterance.text)
        return Candidate(utterance, text, len(tokenizer.encode_normalised(text)))
    except UnknownCharacters as error:
        return utterance.rejected(Reason.UNKNOWN_CHARACTER, str(error))
    except UserError as error:
        return utterance.rejected(Reason.EMPTY_TEXT, str(error))


def check_text_fits_audio(
    candidate: Candidate, n_frames: int | None, seconds: float, prepare: PrepareConfig
) -> Rejected | None:
    """Refuse a text that cannot be what the recording says, judging by their lengths.

    `n_frames` is of what its tokens are to be aligned with; None: nothing is in frames.
    """
    n_tokens = candidate.n_tokens
    if n_frames is not None and n_frames < prepare.min_frames_per_token * n_tokens:
        return candidate.utterance.rejected(
            Reason.TEXT_TOO_LONG_FOR_AUDIO,
            f"{n_tokens} tokens in {n_frames} frames ({seconds:.2f} s), "
            f"at least {prepare.min_frames_per_token:g} frames a token",
        )
    if seconds > prepare.max_seconds_per_token * n_tokens:
        return candidate.utterance.rejected(
            Reason.TEXT_TOO_SHORT_FOR_AUDIO,
            f"{n_tokens} tokens in {seconds:.2f} s, "
            f"at most {prepare.max_seconds_per_token:g} s a token",
        )
    return None

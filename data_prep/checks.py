"""Checks of a row's text, alone and against its recording."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.features.config import PrepareConfig
from dimts.text.normaliser import Normaliser, UnknownCharacters

BOS_AND_EOS = 2
MAX_CHARACTERS = 50_000
"""Of a raw text: an hour of speech, and little enough for any rule of the normaliser."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An utterance whose row and text are good; `text` is normalised."""

    utterance: Utterance
    text: str

    @property
    def n_tokens(self) -> int:
        """What the model will see: the characters, begin and end."""
        return len(self.text) + BOS_AND_EOS

    @property
    def audio(self) -> str:
        """The recording, relative to the corpus folder, with slashes on every system."""
        return self.utterance.audio.as_posix()

    def rejected(self, reason: Reason, detail: str) -> Rejected:
        """This row as one that is not used."""
        return Rejected(self.utterance.row, self.utterance.id, reason, detail)


def check_text(utterance: Utterance, normaliser: Normaliser) -> Candidate | Rejected:
    """Normalise the text; refuse characters that the language does not have, and no words."""
    if len(utterance.text) > MAX_CHARACTERS:
        detail = f"{len(utterance.text)} characters, at most {MAX_CHARACTERS}"
        return Rejected(utterance.row, utterance.id, Reason.TEXT_TOO_LONG_FOR_AUDIO, detail)
    try:
        return Candidate(utterance, normaliser.normalise(utterance.text))
    except UnknownCharacters as error:
        reason, detail = Reason.UNKNOWN_CHARACTER, str(error)
    except UserError as error:
        reason, detail = Reason.EMPTY_TEXT, str(error)
    return Rejected(utterance.row, utterance.id, reason, detail)


def check_text_fits_audio(
    candidate: Candidate, n_frames: int, seconds: float, prepare: PrepareConfig
) -> Rejected | None:
    """Refuse a text that cannot be what the recording says, judging by their lengths.

    Args:
        candidate: the utterance.
        n_frames: frames of its mel.
        seconds: length of its speech.
        prepare: the limits.
    """
    n_tokens = candidate.n_tokens
    if n_frames < prepare.min_frames_per_token * n_tokens:
        return candidate.rejected(
            Reason.TEXT_TOO_LONG_FOR_AUDIO,
            f"{n_tokens} tokens in {n_frames} frames ({seconds:.2f} s), "
            f"at least {prepare.min_frames_per_token:g} frames a token",
        )
    if seconds > prepare.max_seconds_per_token * n_tokens:
        return candidate.rejected(
            Reason.TEXT_TOO_SHORT_FOR_AUDIO,
            f"{n_tokens} tokens in {seconds:.2f} s, "
            f"at most {prepare.max_seconds_per_token:g} s a token",
        )
    return None

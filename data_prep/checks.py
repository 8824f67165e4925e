"""Checks of a row's text, alone and against its recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from data_prep.extract import Result
from data_prep.languages import language_of_row
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.features.config import PrepareConfig
from dimts.features.manifest import SplitName
from dimts.features.schema import Arrays, Extractor
from dimts.text.normaliser import UnknownCharacters
from dimts.text.tokenizer import Tokenizer

MAX_CHARACTERS = 50_000
"""Of a raw text: an hour of speech, and little enough for any rule of the normaliser."""


@dataclass(slots=True)
class Row:
    """An utterance whose row and text are good, on its way into the features."""

    utterance: Utterance
    text: str  # normalised
    n_tokens: int
    features: list[Result] = field(default_factory=list)  # by each extractor so far
    split: SplitName = "train"

    @property
    def seconds(self) -> float:
        """Of speech, as the first extractor has found it."""
        return self.features[0].seconds

    @property
    def arrays(self) -> Arrays:
        """Steps of every column."""
        return dict(chain.from_iterable(made.arrays.items() for made in self.features))

    @property
    def identity(self) -> list[str]:
        """All that its row in a shard is made from."""
        utterance = self.utterance
        return [
            utterance.id,
            self.text,
            utterance.text,
            utterance.language,
            utterance.speaker,
            utterance.audio.as_posix(),
            *(made.key for made in self.features),
        ]


def check_text(utterance: Utterance, tokenizer: Tokenizer) -> Row | Rejected:
    """Normalise the text; refuse characters that the language does not have, and no words."""
    if len(utterance.text) > MAX_CHARACTERS:
        detail = f"{len(utterance.text)} characters, at most {MAX_CHARACTERS}"
        return utterance.rejected(Reason.TEXT_TOO_LONG_FOR_AUDIO, detail)
    language = language_of_row(utterance, tokenizer)
    try:
        text = tokenizer.normaliser(language).normalise(utterance.text)
        return Row(utterance, text, len(tokenizer.encode_normalised(text, language)))
    except UnknownCharacters as error:
        digits = any(c.isdecimal() for c in error.characters)
        wordless = digits and not tokenizer.normaliser(language).language.numbers
        reason = Reason.NO_NUMBER_WORDS if wordless else Reason.UNKNOWN_CHARACTER
        return utterance.rejected(reason, str(error))
    except UserError as error:
        return utterance.rejected(Reason.EMPTY_TEXT, str(error))


def check_text_fits_audio(
    row: Row, result: Result, extractor: Extractor, prepare: PrepareConfig
) -> Rejected | None:
    """Refuse a text that cannot be what the recording says, judging by their lengths."""
    n_tokens, seconds = row.n_tokens, result.seconds
    n_frames = len(result.arrays[extractor.columns[0].name])
    if extractor.unit == "frames" and n_frames < prepare.min_frames_per_token * n_tokens:
        return row.utterance.rejected(
            Reason.TEXT_TOO_LONG_FOR_AUDIO,
            f"{n_tokens} tokens in {n_frames} frames ({seconds:.2f} s), "
            f"at least {prepare.min_frames_per_token:g} frames a token",
        )
    if seconds > prepare.max_seconds_per_token * n_tokens:
        return row.utterance.rejected(
            Reason.TEXT_TOO_SHORT_FOR_AUDIO,
            f"{n_tokens} tokens in {seconds:.2f} s, "
            f"at most {prepare.max_seconds_per_token:g} s a token",
        )
    return None


def without_rare_speakers(
    rows: Sequence[Row], least_seconds: float
) -> tuple[list[Row], list[Rejected]]:
    """Rows of speakers with at least so much speech, and the others."""
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row.utterance.speaker] += row.seconds
    kept, refused = [], []
    for row in rows:
        if (has := seconds[row.utterance.speaker]) >= least_seconds:
            kept.append(row)
            continue
        detail = f"{has / 60:.1f} min of {row.utterance.speaker}, at least {least_seconds / 60:g}"
        refused.append(row.utterance.rejected(Reason.SPEAKER_HAS_FEW_MINUTES, detail))
    return kept, refused

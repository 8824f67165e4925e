"""Settings of an adaptation: what voice it starts from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dimts.families.protocol import BaseSection
from dimts.storage.paths import AnyPath

StartMethod = Literal["transliteration", "mean", "nearest", "random"]
"""How new rows start.

transliteration: consonants, vowels and other letters as the base's letters that spell them.
mean: drawn with the mean and standard deviation that the base's letters have in each channel.
nearest: each token as the first of the base's letters that spell it.
random: as in an untrained model.
"""

SPELLED: tuple[StartMethod, ...] = ("transliteration", "nearest")
"""Those that need a transliteration."""


class BaseConfig(BaseSection):
    """What a voice is adapted from, and what is done lest the base forgets; see `BaseSection`.

    Attributes:
        start: how the rows of new tokens begin.
        transliteration: code or file of the table that `start` reads; that of the language if
            not given.
        features: prepared sets of the base's languages. What was forgotten is measured on their
            test splits; rehearsal draws from their training splits.
        rehearsal_share: share of the batches that are of the base's languages.
        held_out: utterances of each set that forgetting is measured on, at most.
    """

    start: StartMethod = "transliteration"
    transliteration: str | None = None
    features: tuple[AnyPath, ...] = ()
    rehearsal_share: float = Field(0.0, ge=0, lt=1)
    held_out: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.rehearsal_share and not self.features:
            raise ValueError("rehearsal_share needs features, the base's prepared sets")
        if self.transliteration and self.start not in SPELLED:
            raise ValueError(f"transliteration has no effect with start: {self.start}")
        return self

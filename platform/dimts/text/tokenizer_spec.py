"""What a tokenizer's JSON holds, and what makes it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, parse_json, read_bytes
from dimts.text.language import Language
from dimts.text.normaliser import TextConfig
from dimts.text.segmentation import check_segmenter

PAD, END, SPACE = "<pad>", "<eos>", " "


class TokenizerLanguage(Config):
    """A language that the tokenizer knows; `start` is the token that its texts begin with."""

    language: Language
    text: TextConfig
    start: str = Field(min_length=1)


class TokenizerSpec(Config):
    """What the JSON holds: all that is needed to go from raw text to ids.

    Attributes:
        languages: in the order in which they came; the last one is the default.
        tokens: token of each id, from 0.
        pad: fills up a batch, always id 0; None if the tokenizer has none.
        end, space: the tokens that texts end with and that stands for a space.
        n_base: tokens of the tokenizer that this one was extended from; 0 if there is none.
        huggingface: JSON of the Hugging Face tokenizer that segments texts into tokens;
            None: one token a character.
    """

    format: Literal["dimts-tokenizer"] = "dimts-tokenizer"
    version: Literal[2] = 2
    languages: tuple[TokenizerLanguage, ...]
    tokens: tuple[str, ...]
    pad: str | None = PAD
    end: str = END
    space: str = SPACE
    n_base: int = Field(default=0, ge=0)
    huggingface: dict[str, Any] | None = None

    @property
    def specials(self) -> frozenset[str]:
        """Tokens that are no part of a text."""
        starts = (known.start for known in self.languages)
        added = (token["content"] for token in (self.huggingface or {}).get("added_tokens", ()))
        named = (self.pad, self.end, *starts, *added)
        return frozenset(token for token in named if token and token != self.space)

    @field_validator("huggingface")
    @classmethod
    def _segments(cls, own: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if own is not None:
            check_segmenter(own, info.data.get("tokens", ()))
        return own

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.languages and self.huggingface is None:
            raise ValueError("languages: at least one is needed")
        for key, named in (
            ("tokens", self.tokens),
            ("languages", [known.language.code for known in self.languages]),
            ("languages.start", [known.start for known in self.languages]),
        ):
            if len(set(named)) != len(named):
                raise ValueError(f"{key}: one is there twice")
        if self.n_base > len(self.tokens):
            raise ValueError(f"n_base: {self.n_base} of {len(self.tokens)} tokens")
        if self.pad is not None and self.tokens[:1] != (self.pad,):
            raise ValueError(f"tokens: must begin with {self.pad}")
        specials = self.specials
        alphabets = (character for known in self.languages for character in known.language.alphabet)
        if missing := {*specials, self.space, *alphabets} - set(self.tokens):
            raise ValueError(f"tokens: {min(missing)} is missing")
        if self.huggingface is None:
            if long := [t for t in self.tokens if len(t) != 1 and t not in specials]:
                raise ValueError(f"tokens: {long[0]!r} is not one character")
            if self.space != SPACE:
                raise ValueError("space: must be ' ' where each character is a token")
        return self


def read_json(path: str | Path) -> dict[str, Any]:
    """What a tokenizer's file holds, ours or Hugging Face's; raises a `UserError`."""
    try:
        values = parse_json(read_bytes(Path(path), MAX_JSON_BYTES))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not a tokenizer: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a tokenizer: no object of keys and values")
    return values

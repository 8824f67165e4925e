"""Text to ids. The tokenizer is part of the model: its one JSON goes into every bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from dimts.config import Config, fingerprint
from dimts.errors import UserError
from dimts.text.language import Language
from dimts.text.normaliser import Normaliser, TextConfig, UnknownCharacters

SPECIALS = ("<pad>", "<bos>", "<eos>")
SPACE = " "


class TokenizerSpec(Config):
    """What the JSON holds: all that is needed to go from raw text to ids."""

    format: Literal["dimts-tokenizer"] = "dimts-tokenizer"
    version: Literal[1] = 1
    text: TextConfig
    language: Language
    tokens: tuple[str, ...] = Field(description="token of each id, from 0")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.tokens[: len(SPECIALS)] != SPECIALS:
            raise ValueError(f"tokens: must begin with {', '.join(SPECIALS)}")
        if len(set(self.tokens)) != len(self.tokens):
            raise ValueError("tokens: one is there twice")
        if long := [token for token in self.tokens[len(SPECIALS) :] if len(token) != 1]:
            raise ValueError(f"tokens: {long[0]!r} is not one character")
        missing = sorted({SPACE, *self.language.alphabet} - set(self.tokens))
        if missing:
            raise ValueError(f"tokens: {''.join(missing)} of the language's alphabet is missing")
        return self


class Tokenizer:
    """One id a character, and each syllable's consonant and vowel as factors of its id.

    Attributes:
        spec: what `save` writes.
        normaliser: applied to every text that is encoded.
        tokens: token of each id.
        factors: int64 [n_vocab, n_factors], read-only; 0 means none. n_factors is 2
            (consonant, vowel) for a language with syllables and 0 for any other.
        factor_sizes: number of values of each factor, none (0) included.
        space_ids: ids of the space.
        pause_ids: ids where a pause may be heard: space, punctuation, begin and end.
    """

    pad_id, bos_id, eos_id = range(len(SPECIALS))

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self.normaliser = Normaliser(spec.language, spec.text)
        self.tokens = spec.tokens
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self.factors, self.factor_sizes = _factors(spec.language, self.tokens)
        self.space_ids = (self._ids[SPACE],)
        marks = tuple(self._ids[mark] for mark in spec.language.punctuation)
        self.pause_ids = (self.bos_id, self.eos_id, *self.space_ids, *marks)

    @classmethod
    def from_language(cls, language: Language, text_config: TextConfig) -> Tokenizer:
        """The vocabulary of the language: specials, space, its whole alphabet."""
        tokens = (*SPECIALS, SPACE, *language.alphabet)
        return cls(TokenizerSpec(text=text_config, language=language, tokens=tokens))

    @property
    def n_vocab(self) -> int:
        """Number of ids; every one is in use."""
        return len(self.tokens)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes ids."""
        return fingerprint(self.spec)

    def encode(self, text: str) -> list[int]:
        """Ids of a raw text: normalised, between bos and eos.

        Raises:
            UnknownCharacters: names the characters outside the alphabet.
            UserError: nothing to say is left.
        """
        return self.encode_normalised(self.normaliser.normalise(text))

    def encode_normalised(self, text: str) -> list[int]:
        """Ids of a text that `normaliser` has been over already, as in the feature files.

        Raises:
            UnknownCharacters: names the characters outside the vocabulary.
        """
        if unknown := [character for character in text if character not in self._ids]:
            raise UnknownCharacters(unknown, self.spec.language.name)
        return [self.bos_id, *(self._ids[character] for character in text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of `ids`; specials are left out.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        kept = [int(index) for index in ids]
        if outside := [index for index in kept if not 0 <= index < self.n_vocab]:
            raise ValueError(f"ids outside 0..{self.n_vocab - 1}: {outside[:5]}")
        return "".join(self.tokens[index] for index in kept if index >= len(SPECIALS))

    def save(self, path: str | Path) -> None:
        """Write the one JSON."""
        text = json.dumps(self.spec.model_dump(mode="json"), ensure_ascii=False, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or not a tokenizer this version can read; names the field.
        """
        try:
            spec = TokenizerSpec.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "file"
            raise UserError(f"{path}: not a tokenizer: {key}: {first['msg']}") from error
        return cls(spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Tokenizer({self.spec.language.code}, n_vocab={self.n_vocab}, {self.fingerprint})"


def _factors(
    language: Language, tokens: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    if not (syllables := language.syllables):
        return np.zeros((len(tokens), 0), dtype=np.int64), ()
    consonants = {name: index for index, name in enumerate(syllables.consonants, start=1)}
    vowels = {name: index for index, name in enumerate(syllables.vowels, start=1)}
    factors = np.zeros((len(tokens), 2), dtype=np.int64)
    for index, token in enumerate(tokens):
        if token in syllables.factors:
            consonant, vowel = syllables.factors[token]
            factors[index] = consonants[consonant], vowels[vowel]
    factors.setflags(write=False)
    return factors, (len(consonants) + 1, len(vowels) + 1)

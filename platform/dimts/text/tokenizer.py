"""Text to ids. The tokenizer is part of the model: its one JSON goes into every bundle.

One tokenizer may know several languages. A text begins with the start token of its
language, which is how the model knows what is spoken.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterable, Sequence
from itertools import filterfalse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimts.core.config import build_config, fingerprint
from dimts.core.errors import UserError
from dimts.text.language import Language
from dimts.text.normaliser import Normaliser, TextConfig, UnknownCharacters
from dimts.text.segmentation import Segmenter
from dimts.text.tokenizer_spec import END, PAD, SPACE, TokenizerLanguage, TokenizerSpec, read_json


class Tokenizer:
    """Ids of texts of one or several languages, and each syllable's consonant and vowel.

    Attributes:
        spec: what `save` writes.
        tokens: token of each id.
        knows: whether a normalised text may hold a character.
        languages: their codes, in order.
        start_ids: id of each language's start token.
        pad_id, eos_id: ids of padding (None: there is none, pad with 0) and of the end.
        special_ids: ids of all tokens that are no part of a text.
        factors: int64 [n_vocab, n_factors], read-only: consonant and vowel if a language has
            syllables, as the first language has them; 0 means none.
        factor_sizes: number of values of each factor, none (0) included.
        space_ids: ids of the space.
        pause_ids: ids where a pause may be heard: begin, end, space, punctuation.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self.tokens = spec.tokens
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        known = {entry.language.code: entry for entry in spec.languages}
        self._normalisers = {code: Normaliser(k.language, k.text) for code, k in known.items()}
        self._segmenter = Segmenter(spec.huggingface, spec.space) if spec.huggingface else None
        self.knows = self._segmenter.knows if self._segmenter else self._ids.__contains__
        self.languages = tuple(known)
        self.start_ids = {code: self._ids[k.start] for code, k in known.items()}
        self.pad_id = None if spec.pad is None else self._ids[spec.pad]
        self.eos_id = self._ids[spec.end]
        self.special_ids = frozenset(self._ids[token] for token in spec.specials)
        languages = [entry.language for entry in spec.languages]
        self.factors, self.factor_sizes = _factors(languages, self.tokens)
        self.space_ids = (self._ids[spec.space],)
        marks = (self._ids[mark] for language in languages for mark in language.punctuation)
        pauses = (*self.start_ids.values(), self.eos_id, *self.space_ids, *marks)
        self.pause_ids = tuple(dict.fromkeys(pauses))

    @classmethod
    def from_language(cls, language: Language, text_config: TextConfig) -> Tokenizer:
        """The vocabulary of one language: specials, space, its whole alphabet."""
        return cls.from_languages([(language, text_config)])

    @classmethod
    def from_languages(cls, languages: Sequence[tuple[Language, TextConfig]]) -> Tokenizer:
        """The vocabulary of several: specials, space, their alphabets, each character once."""
        known = tuple(
            TokenizerLanguage(language=language, text=text, start=f"<{language.code}>")
            for language, text in languages
        )
        first, *others = (entry.start for entry in known)
        characters = dict.fromkeys(c for entry in known for c in entry.language.alphabet)
        tokens = (PAD, first, END, *others, SPACE, *characters)
        return cls(TokenizerSpec(languages=known, tokens=tokens))

    @property
    def n_vocab(self) -> int:
        """Number of ids."""
        return len(self.tokens)

    @property
    def n_base(self) -> int:
        """Number of ids of the tokenizer that this one was extended from; 0: of none."""
        return self.spec.n_base

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes ids."""
        return fingerprint(self.spec)

    def normaliser(self, language: str | None = None) -> Normaliser:
        """That of a language's texts (None: of that which came last); raises a `UserError` if
        unknown, or if there is none yet."""
        if not self.languages:
            raise UserError("the tokenizer knows no language yet: extend it with one first")
        code = self.languages[-1] if language is None else language
        if code not in self._normalisers:
            known = ", ".join(self.languages)
            raise UserError(f"language {code!r} is not one of this voice's: {known}")
        return self._normalisers[code]

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a raw text: normalised, between its language's start and the end.

        Raises:
            UnknownCharacters: names the characters outside the alphabet.
            UserError: nothing to say is left, or no such language.
        """
        return self.encode_normalised(self.normaliser(language).normalise(text), language)

    def encode_normalised(self, text: str, language: str | None = None) -> list[int]:
        """Ids of a normalised text, which may mix characters of any of the languages; raises like
        `encode`."""
        spoken = self.normaliser(language).language
        if unknown := [*filterfalse(self.knows, text)]:
            raise UnknownCharacters(unknown, spoken.name)
        return [self.start_ids[spoken.code], *self.segment(text), self.eos_id]

    def segment(self, text: str) -> list[int]:
        """Ids of a normalised text's own tokens: no start, no end. All of it must be known."""
        if self._segmenter is not None:
            return self._segmenter.ids(text)
        return list(map(self._ids.__getitem__, text))

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of `ids`; specials are left out.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        kept = [int(index) for index in ids]
        if outside := [index for index in kept if not 0 <= index < self.n_vocab]:
            raise ValueError(f"ids outside 0..{self.n_vocab - 1}: {outside[:5]}")
        return "".join(
            SPACE if index in self.space_ids else self.tokens[index]
            for index in kept
            if index not in self.special_ids
        )

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
        values = read_json(path)
        if values.get("version") == 1:
            raise UserError(f"{path}: made by an older dimts; train or export it again")
        return cls(build_config(TokenizerSpec, values, {(): f"{path}: not a tokenizer"}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.spec == other.spec


def _factors(
    languages: Sequence[Language], tokens: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """The factor table; names are numbered in the order of the languages, each once."""
    syllabaries = [language.syllables for language in languages if language.syllables]
    if not syllabaries:
        return np.zeros((len(tokens), 0), dtype=np.int64), ()
    consonants = _numbered(name for syllables in syllabaries for name in syllables.consonants)
    vowels = _numbered(name for syllables in syllabaries for name in syllables.vowels)
    pairs = ChainMap(*(syllables.factors for syllables in syllabaries))
    factors = np.zeros((len(tokens), 2), dtype=np.int64)
    for index, token in enumerate(tokens):
        if token in pairs:
            consonant, vowel = pairs[token]
            factors[index] = consonants[consonant], vowels[vowel]
    factors.setflags(write=False)
    return factors, (len(consonants) + 1, len(vowels) + 1)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Name -> number from 1, in the order in which they first appear."""
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}

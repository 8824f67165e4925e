"""A tokenizer with one more language: base ids never move, new tokens follow them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import tokenizers

from dimts.core.errors import UserError
from dimts.text.huggingface import extended_huggingface, start_like
from dimts.text.language import Language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import SPACE, TokenizerLanguage, TokenizerSpec

MIN_COUNT = 2
"""How often a sub-word must occur in the texts."""
TRAINED_A_KEPT_MERGE = 8
"""Merges that are trained for each that is wanted: those of base characters are left out."""


def merge(
    base: Tokenizer,
    language: Language,
    text: TextConfig,
    subwords: int = 0,
    texts: Iterable[str] = (),
) -> Tokenizer:
    """`base` extended by a language, which becomes the default one.

    New are the language's start token, the characters of its alphabet that the base lacks,
    and sub-words. A text of the base keeps its very ids, since every sub-word holds a
    character that the base does not know.

    Args:
        text: how texts of the language are normalised.
        subwords: how many tokens longer than a character are added at most.
        texts: normalised texts of the language, to learn these from.

    Raises:
        UserError: the base knows the language, there are no texts to learn sub-words from, or
            the base reads letters or syllables of the language otherwise.
    """
    if language.code in base.languages:
        raise UserError(f"{language.name} ({language.code}) is one of the base's languages already")
    start = start_like(base, language.code)
    there = set(base.tokens)
    characters = [c for c in language.alphabet if c not in there]
    new = [*([] if start in there else [start]), *characters]
    merges = _learn(base, language, subwords, texts) if subwords else []
    added = [*new, *("".join(pair) for pair in merges)]
    segmented = bool(merges) or base.spec.huggingface is not None
    known = TokenizerLanguage(language=language, text=text, start=start)
    spec = TokenizerSpec(
        languages=(*base.spec.languages, known),
        tokens=(*base.tokens, *added),
        n_base=base.n_vocab,
        huggingface=extended_huggingface(base, added, merges, start) if segmented else None,
        **base.spec.model_dump(include={"pad", "end", "space"}),
    )
    merged = Tokenizer(spec)
    # A normaliser inside a Hugging Face base may take letters apart that are added.
    if lost := "".join(c for c in language.alphabet if merged.decode(merged.segment(c)) != c):
        raise UserError(
            f"the base's own normaliser changes {lost} of the alphabet of {language.name}: write "
            "them in the language's file as the base does"
        )
    # A token's vector is its own row and those of its consonant and vowel.
    rows, before = merged.factors[: base.n_vocab], base.factors if base.factor_sizes else 0
    if moved := "".join(base.tokens[i] for i in (rows != before).any(axis=1).nonzero()[0]):
        raise UserError(
            f"the base has {moved} of {language.name} without consonant and vowel, which would "
            "change how it reads them: leave syllables out of the language's file"
        )
    return merged


def _learn(
    base: Tokenizer, language: Language, most: int, texts: Iterable[str]
) -> list[tuple[str, str]]:
    """Merges in the order in which they are applied, each making a token that is new."""
    marks = re.escape(language.punctuation + SPACE)
    words = [word for line in texts for word in re.split(f"[{marks}]+", line) if word]
    if not words:
        raise UserError("sub-words are learned from texts of the language: there are none")
    letters = {letter for word in words for letter in word}
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    # Each word is a sequence of its own: without a pre-tokenizer no merge crosses words.
    model.train_from_iterator(
        words,
        tokenizers.trainers.BpeTrainer(
            vocab_size=len(letters) + TRAINED_A_KEPT_MERGE * most,
            min_frequency=MIN_COUNT,
            show_progress=False,
        ),
    )
    tokens = {*base.tokens, *language.alphabet}
    kept: list[tuple[str, str]] = []
    for left, right in json.loads(model.to_str())["model"]["merges"]:
        joined = left + right
        new_letter = any(not base.knows(letter) for letter in joined)
        if new_letter and left in tokens and right in tokens and joined not in tokens:
            kept.append((left, right))
            tokens.add(joined)
        if len(kept) == most:
            break
    return kept

"""Embedding rows for the tokens that a language adds to a base voice's vocabulary.

A token's vector is its own row plus those of its consonant and vowel, if it has them. The
base's rows stay as they are, bit for bit; the new ones start by one of the methods below.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.acoustic.extension.config import StartMethod
from dimts.text.huggingface import BRACKETED
from dimts.text.language import Language
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration

TOKEN, FACTOR = "encoder.embedding.token.weight", "encoder.embedding.factor.{}.weight"


def extend_rows(
    weights: Mapping[str, Tensor],
    base: Tokenizer,
    merged: Tokenizer,
    language: Language,
    method: StartMethod,
    transliteration: Transliteration | None,
    seed: int,
) -> dict[str, Tensor]:
    """The base's weights with rows for the merged vocabulary; all else as it was.

    The new language's start token starts as the mean of the base's start tokens, if it has
    any, whatever the method; what a transliteration does not cover (`not_covered`) starts by
    ``mean``.

    Args:
        weights: state dict of a model with the base's vocabulary.
        base, merged: tokenizer before and after `language` was added.
        language: the new one.
        method: how new rows start.
        transliteration: of `language`, for the methods that need it.
        seed: of what is drawn.

    Raises:
        UserError: the method needs a transliteration, or the base has no letters.
    """
    old = _OldRows(weights, base, merged)
    generator = torch.Generator().manual_seed(seed)
    new = _NewRows(old, base, merged, language, generator)
    if method == "random":
        new.draw_untrained(generator)
    elif method != "mean":
        spelling = _Spelling(base, language, _needed(transliteration, method, language))
        if method == "nearest":
            new.copy_first_letters(spelling)
        else:
            new.spell(spelling)
    start = merged.start_ids[language.code] - base.n_vocab
    if start >= 0 and (starts := _start_ids(base)):
        new.token_VD[start] = old.vectors_VD[starts].mean(0)
    extended = {**weights, TOKEN: torch.cat((old.token_VD, new.token_VD))}
    for i, (before, after) in enumerate(zip(old.factor, new.factor, strict=True)):
        extended[FACTOR.format(i)] = torch.cat((before, after))
    return extended


def not_covered(
    base: Tokenizer, merged: Tokenizer, language: Language, transliteration: Transliteration
) -> tuple[str, ...]:
    """The new tokens, start token apart, that a transliteration gives no letters of the base."""
    spelling = _Spelling(base, language, transliteration)
    start = merged.start_ids[language.code]
    new = (merged.tokens[i] for i in range(base.n_vocab, merged.n_vocab) if i != start)
    return tuple(token for token in new if not spelling.covers(token))


def _start_ids(base: Tokenizer) -> list[int]:
    """Of a base that was made elsewhere: its tokens such as ``[en]``."""
    bracketed = [i for i, token in enumerate(base.tokens) if BRACKETED.fullmatch(token)]
    return list(base.start_ids.values()) or bracketed


def _needed(
    transliteration: Transliteration | None, method: StartMethod, language: Language
) -> Transliteration:
    if transliteration is None:
        raise UserError(
            f"rows cannot start by {method!r} without a transliteration of {language.name} "
            f"({language.code}); write one, or start them by 'mean' or 'random'"
        )
    return transliteration


class _OldRows:
    """The base's rows, and what is typical of them.

    Attributes:
        token_VD: own rows of the tokens.
        factor: rows of each factor; where the base has none, row 0 of the two alone, which
            means "none".
        vectors_VD: sum of a token's own row and its factors' rows.
        mean_D, std_D: of the letters' vectors.
    """

    def __init__(self, weights: Mapping[str, Tensor], base: Tokenizer, merged: Tokenizer):
        self.token_VD = weights[TOKEN]
        assert len(self.token_VD) == base.n_vocab
        self.vectors_VD = self.token_VD.clone()
        self.factor = [weights[FACTOR.format(i)] for i in range(len(base.factor_sizes))]
        factors_VF = torch.from_numpy(base.factors.copy())
        for i, table in enumerate(self.factor):
            self.vectors_VD += table[factors_VF[:, i]]
        if not self.factor:
            none = torch.zeros(1, self.token_VD.shape[1])
            self.factor = [none for _ in merged.factor_sizes]
        letters = [i for i, token in enumerate(base.tokens) if token.isalpha()]
        if len(letters) < 2:
            raise UserError("the base's vocabulary has no letters that new rows could start from")
        self.letters_LD = self.vectors_VD[letters]
        self.std_D, self.mean_D = torch.std_mean(self.letters_LD, dim=0)


class _Spelling:
    """Ids of the base's letters that spell what is new."""

    def __init__(self, base: Tokenizer, language: Language, transliteration: Transliteration):
        self._ids = {token: i for i, token in enumerate(base.tokens)} | {" ": base.space_ids[0]}
        self._language, self._transliteration = language, transliteration
        self._syllables = language.syllables.factors if language.syllables else {}
        self._spelled = transliteration.consonants, transliteration.vowels

    def token(self, token: str) -> list[int]:
        """Letters of a token, from all of its characters that are covered."""
        spelled = (self._transliteration.spell(c, self._language) for c in token)
        return self._known("".join(text for text in spelled if text))

    def factor(self, i: int, name: str) -> list[int] | None:
        """Letters of a consonant (0) or vowel (1), none of what has no sound of its own; None
        where it is not covered."""
        text = self._spelled[i].get(name)
        if text is None:
            return None
        return self._known(text) or (None if text else [])

    def by_itself(self, token: str) -> bool:
        """Whether the transliteration spells a syllable otherwise than by its factors."""
        return token in self._transliteration.letters and bool(self.token(token))

    def covers(self, token: str) -> bool:
        if token in self._syllables and token not in self._transliteration.letters:
            names = self._syllables[token]
            return all(self.factor(i, name) is not None for i, name in enumerate(names))
        return bool(self.token(token))

    def _known(self, text: str) -> list[int]:
        return [self._ids[letter] for letter in text if letter in self._ids]


class _NewRows:
    """Rows of the new tokens and factors; as made, they start by ``mean``.

    A syllable's own row starts at zero, and consonant and vowel share the mean and std, so
    that letters of one sound start alike. A table that the base has gets more of its own kind.

    Attributes:
        token_VD: own rows of the tokens from `base.n_vocab` on.
        factor: the further rows of each factor.
    """

    def __init__(
        self,
        old: _OldRows,
        base: Tokenizer,
        merged: Tokenizer,
        language: Language,
        generator: torch.Generator,
    ):
        self._old, width = old, old.token_VD.shape[1]
        self.tokens = merged.tokens[base.n_vocab :]
        self.factors_VF = torch.from_numpy(merged.factors[base.n_vocab :].copy())
        self._syllable_V = self.factors_VF.any(1)
        self._names = self._factor_names(language)
        self._centres: list[Tensor] = []
        self.factor: list[Tensor] = []
        for size, table in zip(merged.factor_sizes, old.factor, strict=True):
            centre_D, std_D = old.mean_D / 2, old.std_D / 2**0.5
            if len(table) > 2:
                std_D, centre_D = torch.std_mean(table[1:], dim=0)
            noise = torch.randn(size - len(table), width, generator=generator)
            self._centres.append(centre_D)
            self.factor.append(centre_D + std_D * noise)
        noise = torch.randn(len(self.tokens), width, generator=generator)
        self._drawn_VD = old.mean_D + old.std_D * noise
        self.token_VD = self._drawn_VD * ~self._syllable_V[:, None]

    def draw_untrained(self, generator: torch.Generator) -> None:
        for rows in (self.token_VD, *self.factor):
            rows.normal_(std=rows.shape[1] ** -0.5, generator=generator)

    def copy_first_letters(self, spelling: _Spelling) -> None:
        for rows in self.factor:
            rows.zero_()
        self.token_VD = self._drawn_VD
        for n, token in enumerate(self.tokens):
            if ids := spelling.token(token):
                self.token_VD[n] = self._old.vectors_VD[ids[0]]
        self.token_VD = self.token_VD - self._factor_sum()

    def spell(self, spelling: _Spelling) -> None:
        raw = self._spelled_factors(spelling)
        scale = self._scale(raw)
        for i, rows in enumerate(raw):
            for row, deviation_D in rows.items():
                if (new := row - len(self._old.factor[i])) >= 0:
                    self.factor[i][new] = self._centres[i] + scale * deviation_D
        shared_VD = self._factor_sum()
        for n, token in enumerate(self.tokens):
            ids = spelling.token(token)
            if ids and (not self._syllable_V[n] or spelling.by_itself(token)):
                self.token_VD[n] = self._old.vectors_VD[ids].mean(0) - shared_VD[n]

    def _spelled_factors(self, spelling: _Spelling) -> list[dict[int, Tensor]]:
        """Of each factor, row -> how its letters differ from the mean letter."""
        raw: list[dict[int, Tensor]] = []
        for i, names in enumerate(self._names):
            raw.append({})
            for row, name in names.items():
                ids = spelling.factor(i, name)
                if ids is not None:
                    deviations_LD = self._old.vectors_VD[ids] - self._old.mean_D
                    raw[i][row] = deviations_LD.sum(0) / max(1, len(ids))
        return raw

    def _scale(self, raw: list[dict[int, Tensor]]) -> float:
        """What brings the syllables to the standard deviation of the base's letters."""
        syllables = self.factors_VF[self._syllable_V].tolist()
        sums = [
            torch.stack([deviations[row] for deviations, row in zip(raw, rows, strict=True)]).sum(0)
            for rows in syllables
            if all(row in deviations for deviations, row in zip(raw, rows, strict=True))
        ]
        if len(sums) < 2:
            return 2**-0.5
        return float(std_of(self._old.letters_LD) / std_of(torch.stack(sums)))

    def _factor_names(self, language: Language) -> list[dict[int, str]]:
        """Of each factor, row -> name, of the rows that new tokens use."""
        syllables = language.syllables.factors if language.syllables else {}
        names: list[dict[int, str]] = [{} for _ in range(self.factors_VF.shape[1])]
        for token, rows in zip(self.tokens, self.factors_VF.tolist(), strict=True):
            if token in syllables:
                for i, (row, name) in enumerate(zip(rows, syllables[token], strict=True)):
                    names[i][row] = name
        return names

    def _factor_sum(self) -> Tensor:
        """[V, D]: what each new token takes from its factors."""
        total_VD = torch.zeros_like(self.token_VD)
        for i, rows in enumerate(self.factor):
            total_VD += torch.cat((self._old.factor[i], rows))[self.factors_VF[:, i]]
        return total_VD


def std_of(rows_LD: Tensor) -> Tensor:
    """Root mean square of what rows differ from their mean by."""
    return (rows_LD - rows_LD.mean(0)).square().mean().sqrt()

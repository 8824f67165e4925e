"""Embedding rows for the tokens that a language adds to a base voice's vocabulary.

A token's vector is its own row plus those of its consonant and vowel, if it has them. The
base's rows stay as they are, bit for bit; the new ones start by one of the methods below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.acoustic.settings import SPELLED, StartMethod
from dimts.text.huggingface import BRACKETED
from dimts.text.language import Language
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration

TOKEN, FACTOR = "encoder.embedding.token.weight", "encoder.embedding.factor.{}.weight"


class Extension(NamedTuple):
    """What is added to an embedding.

    Attributes:
        base, merged: tokenizer before and after a language was added.
        method: how rows of new tokens start.
        transliteration: of the language, for the methods that need it.
        seed: of what is drawn.
    """

    base: Tokenizer
    merged: Tokenizer
    method: StartMethod
    transliteration: Transliteration | None
    seed: int

    @property
    def language(self) -> Language:
        """The one that was added."""
        return self.merged.spec.languages[-1].language


def extend_rows(weights: Mapping[str, Tensor], extension: Extension) -> dict[str, Tensor]:
    """The base's weights with rows for the merged vocabulary; all else as it was.

    The new language's start token starts as the mean of the base's start tokens, if it has
    any, whatever the method; what a transliteration does not cover (`not_covered`) starts by
    ``mean``.

    Raises:
        UserError: the base has no letters.
    """
    base, merged, method, table, seed = extension
    generator = torch.Generator().manual_seed(seed)
    rows = _Rows(weights, base, merged, generator)
    if method == "random":
        rows.draw_untrained(generator)
    elif method in SPELLED:
        assert table is not None
        spelling = _Spelling(base, extension.language, table)
        if method == "nearest":
            rows.copy_first_letters(spelling)
        else:
            rows.spell(spelling)
    start = merged.start_ids[extension.language.code]
    # A base that was made elsewhere has tokens such as ``[en]``.
    bracketed = [i for i, token in enumerate(base.tokens) if BRACKETED.fullmatch(token)]
    starts = list(base.start_ids.values()) or bracketed
    if start >= base.n_vocab and starts:
        rows.token_VD[start] = rows.old_VD[starts].mean(0)
    factors = {FACTOR.format(i): table_FD for i, table_FD in enumerate(rows.factor)}
    return {**weights, TOKEN: rows.token_VD, **factors}


def not_covered(base: Tokenizer, merged: Tokenizer, table: Transliteration) -> tuple[str, ...]:
    """The new tokens, start token apart, that a transliteration gives no letters of the base."""
    language = merged.spec.languages[-1].language
    spelling, start = _Spelling(base, language, table), merged.start_ids[language.code]
    new = (merged.tokens[i] for i in range(base.n_vocab, merged.n_vocab) if i != start)
    return tuple(token for token in new if not spelling.covers(token))


class _Spelling:
    """Ids of the base's letters that spell what is new."""

    def __init__(self, base: Tokenizer, language: Language, table: Transliteration):
        self._ids = {token: i for i, token in enumerate(base.tokens)} | {" ": base.space_ids[0]}
        self._language, self.table = language, table
        self.syllables = language.syllables.factors if language.syllables else {}

    def token(self, token: str) -> list[int]:
        """Letters of a token, from all of its characters that are covered."""
        return self._known("".join(self.table.spell(c, self._language) or "" for c in token))

    def factor(self, i: int, name: str) -> list[int] | None:
        """Letters of a consonant (0) or vowel (1), none of what has no sound of its own; None
        where it is not covered."""
        text = (self.table.consonants, self.table.vowels)[i].get(name)
        ids = self._known(text or "")
        return ids if ids or text == "" else None

    def covers(self, token: str) -> bool:
        if token in self.syllables and token not in self.table.letters:
            names = self.syllables[token]
            return all(self.factor(i, name) is not None for i, name in enumerate(names))
        return bool(self.token(token))

    def _known(self, text: str) -> list[int]:
        return [self._ids[letter] for letter in text if letter in self._ids]


class _Rows:
    """Rows of the merged vocabulary, the base's first; as made, the new ones start by ``mean``.

    A syllable's own row starts at zero, and consonant and vowel share the mean and std, so
    that letters of one sound start alike. A table that the base has gets more of its own kind;
    one that it lacks begins with row 0, which means "none".

    Attributes:
        token_VD: own rows of the tokens.
        factor: rows of each factor.
        old_VD: vectors of the base's tokens: own row and factors' rows.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        base: Tokenizer,
        merged: Tokenizer,
        generator: torch.Generator,
    ):
        own_VD = weights[TOKEN]
        assert len(own_VD) == base.n_vocab
        width = own_VD.shape[1]
        old = [weights[FACTOR.format(i)] for i in range(len(base.factor_sizes))]
        self.old_VD = _add_factors(own_VD, old, torch.from_numpy(base.factors.copy()))
        letters = [i for i, token in enumerate(base.tokens) if token.isalpha()]
        if len(letters) < 2:
            raise UserError("the base's vocabulary has no letters that new rows could start from")
        self._letters_LD = self.old_VD[letters]
        std_D, self._mean_D = torch.std_mean(self._letters_LD, dim=0)
        self._n, self._tokens = base.n_vocab, merged.tokens[base.n_vocab :]
        self._factors_VF = torch.from_numpy(merged.factors[base.n_vocab :].copy())
        self._syllable_V = self._factors_VF.any(1)
        old = old or [torch.zeros(1, width) for _ in merged.factor_sizes]
        self._n_old = [len(table) for table in old]
        self.factor: list[Tensor] = []
        self._centres: list[Tensor] = []
        for size, table in zip(merged.factor_sizes, old, strict=True):
            centre_D, spread_D = self._mean_D / 2, std_D / 2**0.5
            if len(table) > 2:
                spread_D, centre_D = torch.std_mean(table[1:], dim=0)
            noise = torch.randn(size - len(table), width, generator=generator)
            self._centres.append(centre_D)
            self.factor.append(torch.cat((table, centre_D + spread_D * noise)))
        noise = torch.randn(len(self._tokens), width, generator=generator)
        self._drawn_VD = self._mean_D + std_D * noise
        self.token_VD = torch.cat((own_VD, self._drawn_VD * ~self._syllable_V[:, None]))

    @property
    def _new(self) -> list[Tensor]:
        """Views of what the base lacks, the tokens' own rows first."""
        tables = zip(self.factor, self._n_old, strict=True)
        return [self.token_VD[self._n :], *(table[n:] for table, n in tables)]

    def draw_untrained(self, generator: torch.Generator) -> None:
        for rows in self._new:
            rows.normal_(std=rows.shape[1] ** -0.5, generator=generator)

    def copy_first_letters(self, spelling: _Spelling) -> None:
        """Each token as the first letter that spells it; new factors add nothing to it."""
        own_VD, *factors = self._new
        for rows in factors:
            rows.zero_()
        own_VD.copy_(self._drawn_VD)
        for n, token in enumerate(self._tokens):
            if ids := spelling.token(token):
                own_VD[n] = self.old_VD[ids[0]]
        own_VD -= self._shared()

    def spell(self, spelling: _Spelling) -> None:
        """Consonants and vowels as their letters differ from the mean one, and what has none, or
        is spelled otherwise than by them, as the mean of its letters."""
        deviations = self._deviations(spelling)
        scale = self._scale(deviations)
        for i, rows in enumerate(deviations):
            for row, deviation_D in rows.items():
                if row >= self._n_old[i]:
                    self.factor[i][row] = self._centres[i] + scale * deviation_D
        own_VD, shared_VD = self._new[0], self._shared()
        for n, token in enumerate(self._tokens):
            ids = spelling.token(token)
            if ids and (not self._syllable_V[n] or token in spelling.table.letters):
                own_VD[n] = self.old_VD[ids].mean(0) - shared_VD[n]

    def _shared(self) -> Tensor:
        """What each new token takes from its factors."""
        return _add_factors(torch.zeros_like(self._drawn_VD), self.factor, self._factors_VF)

    def _deviations(self, spelling: _Spelling) -> list[dict[int, Tensor]]:
        """Of each factor, row -> how its letters differ from the mean letter."""
        found: list[dict[int, Tensor]] = [{} for _ in self.factor]
        for token, rows in zip(self._tokens, self._factors_VF.tolist(), strict=True):
            names = spelling.syllables.get(token, ())
            for i, (row, name) in enumerate(zip(rows, names, strict=False)):
                ids = spelling.factor(i, name)
                if ids is not None and row not in found[i]:
                    found[i][row] = (self.old_VD[ids] - self._mean_D).sum(0) / max(1, len(ids))
        return found

    def _scale(self, deviations: list[dict[int, Tensor]]) -> float:
        """What brings the syllables to the standard deviation of the base's letters."""
        sums = []
        for rows in self._factors_VF[self._syllable_V].tolist():
            parts = [of[row] for of, row in zip(deviations, rows, strict=True) if row in of]
            if len(parts) == len(rows):
                sums.append(torch.stack(parts).sum(0))
        if len(sums) < 2:
            return 2**-0.5
        return float(std_of(self._letters_LD) / std_of(torch.stack(sums)))


def _add_factors(own_VD: Tensor, factor: list[Tensor], factors_VF: Tensor) -> Tensor:
    """Vectors of tokens: their own rows and those of their factors."""
    total_VD = own_VD.clone()
    for i, table in enumerate(factor):
        total_VD += table[factors_VF[:, i]]
    return total_VD


def std_of(rows_LD: Tensor) -> Tensor:
    """Root mean square of what rows differ from their mean by."""
    return (rows_LD - rows_LD.mean(0)).square().mean().sqrt()

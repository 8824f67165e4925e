"""Rows of tokens, of their factors and of speakers, some of which may be frozen."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextEmbedding(nn.Module):
    """Token id -> vector: the token's own row plus one row for each of its factors.

    The factors of an Ethiopic syllable are its consonant and its vowel, so that a syllable
    seldom seen shares what is known of both. Row 0 of a factor means "none" and stays zero.

    Args:
        factors_VF: the tokenizer's factor table, int64 [n_vocab, F].
        factor_sizes: rows of each factor's embedding.
        width: channels of a vector.
        row_width: channels of a row; where other than `width`, a projection follows.
    """

    factors_VF: Tensor

    def __init__(
        self,
        factors_VF: Tensor,
        factor_sizes: tuple[int, ...],
        width: int,
        row_width: int | None = None,
    ):
        super().__init__()
        row_width = row_width or width
        self.register_buffer("factors_VF", factors_VF, persistent=False)
        # Id 0 is padding, whose row gets no gradient as padding is masked; but with a tokenizer
        # that has no padding token it is a token like any other.
        self.token: nn.Embedding | PartlyFrozenEmbedding = nn.Embedding(len(factors_VF), row_width)
        self.factor = nn.ModuleList(
            nn.Embedding(size, row_width, padding_idx=0) for size in factor_sizes
        )
        for embedding in (self.token, *self.factor):
            assert isinstance(embedding, nn.Embedding)
            nn.init.normal_(embedding.weight, std=row_width**-0.5)
            with torch.no_grad():
                embedding.weight[0].zero_()
        self.projection: nn.Linear | None = None
        if row_width != width:
            self.projection = nn.Linear(row_width, width, bias=False)
            # A row of variance 1 / row_width becomes one of variance 1 / width, as without it.
            nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, tokens_BN: Tensor) -> Tensor:
        """int64 [B, N] -> [B, N, D]."""
        x_BND = self.token(tokens_BN)
        factors_BNF = self.factors_VF[tokens_BN]
        for i, embedding in enumerate(self.factor):
            x_BND = x_BND + embedding(factors_BNF[..., i])
        if self.projection is not None:
            x_BND = self.projection(x_BND)
        return x_BND * math.sqrt(x_BND.shape[-1])


class SpeakerEmbedding(nn.Module):
    """A row for each speaker, added to each state of the encoder; all that follows sees it.

    Args:
        n_speakers: rows.
        width: channels of a state.
    """

    def __init__(self, n_speakers: int, width: int):
        super().__init__()
        self.rows: nn.Embedding | PartlyFrozenEmbedding = nn.Embedding(n_speakers, width)
        nn.init.normal_(self.rows.weight, std=width**-0.5)

    def forward(self, speakers_B: Tensor) -> Tensor:
        """int64 [B] -> [B, D]."""
        rows_BD: Tensor = self.rows(speakers_B)
        return rows_BD * math.sqrt(rows_BD.shape[-1])


class PartlyFrozenEmbedding(nn.Module):
    """An embedding of which some rows cannot change, whatever the optimizer does.

    A gradient of zero does not hold a row still: weight decay and the moments of past steps
    still move it. Here the trained rows are a parameter of their own, and the optimizer never
    sees the others. The state dict has the one ``weight`` of the `nn.Embedding` it replaces.

    The rows that `frozen_V`, bool, says are frozen are some of the embedding's, not all, with its
    padding row among them.
    """

    frozen_V: Tensor
    place_V: Tensor

    def __init__(self, embedding: nn.Embedding, frozen_V: Tensor):
        super().__init__()
        weight_VD = embedding.weight.detach()
        assert frozen_V.shape == weight_VD.shape[:1]
        assert frozen_V.any() and not frozen_V.all()
        assert embedding.padding_idx is None or frozen_V[embedding.padding_idx]
        frozen_V = frozen_V.to(weight_VD.device)
        # The row of each id where the trained rows follow the frozen ones.
        place_V = torch.where(frozen_V, frozen_V.cumsum(0), frozen_V.sum() + (~frozen_V).cumsum(0))
        self.register_buffer("frozen_V", frozen_V, persistent=False)
        self.register_buffer("place_V", place_V - 1, persistent=False)
        self.frozen = nn.Parameter(weight_VD[frozen_V], requires_grad=False)
        self.trained = nn.Parameter(weight_VD[~frozen_V])

    @property
    def trained_rows(self) -> nn.Parameter:
        """What an optimizer treats as an embedding's."""
        return self.trained

    @property
    def weight(self) -> Tensor:
        """[V, D]: all rows in the order of ids, as a copy."""
        return self(torch.arange(len(self.place_V), device=self.place_V.device))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] -> [..., D]."""
        return F.embedding(self.place_V[ids], torch.cat((self.frozen, self.trained)))

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        weight_VD = self.weight
        destination[f"{prefix}weight"] = weight_VD if keep_vars else weight_VD.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        weight_VD = state_dict.get(f"{prefix}weight")
        if weight_VD is not None and len(weight_VD) == len(self.frozen_V):
            weight_VD = state_dict.pop(f"{prefix}weight").to(self.frozen)
            state_dict[f"{prefix}frozen"] = weight_VD[self.frozen_V]
            state_dict[f"{prefix}trained"] = weight_VD[~self.frozen_V]
        super()._load_from_state_dict(state_dict, prefix, *others)

"""Freezing that holds: what is frozen has the same bits after training as before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimts.core.errors import ConfigError
from dimts.families.acoustic.model.config import FreezeIndex
from dimts.families.acoustic.model.embedding import PartlyFrozenEmbedding
from dimts.families.acoustic.model.t3 import T3
from dimts.text.tokenizer import Tokenizer
from dimts.training.task import count_parameters

KEY = "model.freeze_until_index"


def freeze(model: T3, tokenizer: Tokenizer, n_base_speakers: int = 0) -> dict[str, int]:
    """Freeze in place what the model's settings say, before an optimizer or DDP sees it.

    A frozen token's vector is its own row and those of its factors, so the factors' rows are
    frozen too. A projection behind the rows is trained like any layer above them. Frozen blocks
    keep their dropout in training: it changes no weight, and they have no running statistics.
    With the rows of a base's tokens (``n_base``, ``n_vocab``) those of its speakers are frozen.

    Returns:
        ``trained`` and ``frozen`` values of the parameters, and ``frozen_rows`` of tokens.

    Raises:
        ConfigError: the index does not fit the tokenizer; says what does.
    """
    index = model.config.freeze_until_index
    rows = frozen_rows(index, tokenizer)
    embedding, blocks = model.encoder.embedding, model.config.freeze_blocks
    if rows:
        factors_VF = embedding.factors_VF
        frozen_V = torch.arange(len(factors_VF), device=factors_VF.device) < rows
        embedding.token = _freeze_rows(embedding.token, frozen_V)
        for i, table in enumerate(embedding.factor):
            assert isinstance(table, nn.Embedding)
            used = torch.zeros(table.num_embeddings, dtype=torch.bool, device=frozen_V.device)
            used[factors_VF[:rows, i]] = True
            used[0] = True  # "none" is zero and stays so
            embedding.factor[i] = _freeze_rows(table, used)
    if model.speaker is not None and n_base_speakers and isinstance(index, str):
        rows_S = torch.arange(len(model.speaker.rows.weight))
        model.speaker.rows = _freeze_rows(model.speaker.rows, rows_S < n_base_speakers)
    for number in blocks.encoder:
        model.encoder.blocks[number].requires_grad_(False)
    for number in blocks.decoder:
        model.decoder.blocks[number].requires_grad_(False)
    return {**count_parameters(model), "frozen_rows": rows}


def frozen_rows(index: FreezeIndex, tokenizer: Tokenizer) -> int:
    """How many token rows, from id 0, an index freezes.

    Raises:
        ConfigError: it needs a tokenizer that was extended, or is above the vocabulary.
    """
    if index == "n_vocab":
        return tokenizer.n_vocab
    if index == "n_base" or isinstance(index, float):
        if not tokenizer.n_base:
            raise ConfigError(
                f"{KEY}={index}: the tokenizer was not extended, so there are no rows of a base "
                f"to freeze; start from a base, or give a number of rows up to "
                f"{tokenizer.n_vocab}"
            )
        share = index if isinstance(index, float) else 1.0
        if not (rows := round(share * tokenizer.n_base)):
            raise ConfigError(
                f"{KEY}={index}: less than one of the base's {tokenizer.n_base} rows, so it has "
                "no effect; give a larger share"
            )
        return rows
    assert isinstance(index, int)
    if index > tokenizer.n_vocab:
        raise ConfigError(
            f"{KEY}={index}: the vocabulary has {tokenizer.n_vocab} tokens; give at most that many"
        )
    return index


def _freeze_rows(
    embedding: nn.Embedding | PartlyFrozenEmbedding, frozen_V: Tensor
) -> nn.Embedding | PartlyFrozenEmbedding:
    assert isinstance(embedding, nn.Embedding), "frozen once already"
    if frozen_V.all():
        embedding.requires_grad_(False)
        return embedding
    return PartlyFrozenEmbedding(embedding, frozen_V)

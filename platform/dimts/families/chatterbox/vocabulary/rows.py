"""Values that the rows of a new language start from, in the text's embedding and head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.chatterbox.vocabulary.placement import Placement
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.text.transliteration import Transliteration

TABLES = ("text_emb.weight", "text_head.weight")
NOISE = 0.1
"""Of what is added to a new row, as a share of how letters' rows differ from each other."""


def spelled(
    base: StockTokenizer, placement: Placement, table: Transliteration
) -> dict[str, list[int]]:
    """Rows of the base that each new token but the tag is spelled by; empty if by none."""
    return {
        token: [
            index
            for index in base.segment(table.spell(token, placement.language) or "")
            if index != base.ids["[UNK]"]
        ]
        for token in placement.rows
        if token != placement.tag
    }


def start_rows(
    weights: Mapping[str, Tensor],
    base: StockTokenizer,
    placement: Placement,
    table: Transliteration,
    related: str | None,
    seed: int,
) -> dict[str, Tensor]:
    """Weights with rows for the new tokens; all other values keep their bits.

    A character starts as the mean of the rows that spell it (of all such rows where none does),
    in both tables, and the tag as that of a related language, or as the mean of all tags; small
    noise tells equal ones apart.

    Args:
        weights: of the base.
        base: its tokenizer.
        placement: of the new tokens.
        table: spells them.
        related: code of a language of the base.
        seed: of the noise.

    Raises:
        UserError: the base has no such language, or none of the letters.
    """
    if related is not None and related not in base.languages:
        known = ", ".join(base.languages)
        raise UserError(f"--related {related}: not one of the model's languages: {known}")
    rows = spelled(base, placement, table)
    letters = sorted({index for ids in rows.values() for index in ids})
    if len(letters) < 2:
        raise UserError(
            f"the transliteration of {table.language} spells nothing in the base's rows"
        )
    rows[placement.tag] = [
        base.ids[f"[{code}]"] for code in ([related] if related else base.languages)
    ]
    generator = torch.Generator().manual_seed(seed)
    started = dict(weights)
    for name in TABLES:
        old_VC = weights[name]
        std_C, mean_C = torch.std_mean(old_VC[letters].float(), dim=0)
        new_VC = old_VC.new_zeros(placement.tokenizer.n_vocab, old_VC.shape[1])
        new_VC[: len(old_VC)] = old_VC
        for token, index in placement.rows.items():
            noise_C = NOISE * std_C * torch.randn(len(std_C), generator=generator)
            ids = rows[token]
            new_VC[index] = (old_VC[ids].float().mean(0) if ids else mean_C) + noise_C
        started[name] = new_VC
    return started

"""What a tokenizer makes of a corpus, and what a new language was given, for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dimts.families.chatterbox.model.config import UNK_TEXT
from dimts.families.chatterbox.vocabulary.placement import Placement
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.text.merge_report import listed


def placed_lines(
    base: StockTokenizer, placement: Placement, spelled: Mapping[str, Sequence[int]]
) -> list[str]:
    """Which tokens were added, whose rows they took, and which start without letters."""
    language, rows = placement.language, placement.rows
    new = [token for token in rows if token != placement.tag]
    lines = [
        f"{language.name} ({language.code}): {base.n_vocab} rows become "
        f"{placement.tokenizer.n_vocab}, {len(rows)} of them are the language's",
        f"tag:     {placement.tag}, row {rows[placement.tag]}",
        f"added:   {len(new)} characters {listed(new)}",
    ]
    if placement.replaced:
        shown = listed([repr(token)[1:-1] for token in placement.replaced.values()], " ")
        lines.append(f"taken:   {len(placement.replaced)} rows that no text reaches: {shown}")
    if unspelled := [token for token, ids in spelled.items() if not ids]:
        lines.append(f"no transliteration, they start by the mean: {listed(unspelled, ' ')}")
    return lines


def unknown_lines(when: str, tokenizer: StockTokenizer, texts: Sequence[str]) -> list[str]:
    """How much of some texts becomes `[UNK]`, and which characters."""
    rows = [tokenizer.pieces(text) for text in texts]
    n_ids = sum(map(len, rows))
    n_unknown = sum(ids.count(UNK_TEXT) for ids in rows)
    n_touched = sum(UNK_TEXT in ids for ids in rows)
    share = n_unknown / max(n_ids, 1)
    lines = [
        f"{when + ':':<9}{share:.2%} of {n_ids} tokens are [UNK], in {n_touched} of "
        f"{len(texts)} texts"
    ]
    if n_unknown:
        unknown = tokenizer.unknown(texts)
        lines.append(f"         {len(unknown)} characters: {listed(list(unknown))}")
    return lines

"""A published Chatterbox that knows one language more: `dimts extend --base FOLDER` of such one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dimts.bundles.bundle import sha256
from dimts.bundles.fetch import new_folder
from dimts.core.errors import UserError
from dimts.families.chatterbox.placed import write_placed
from dimts.families.chatterbox.stock import STOCK_ROWS, TOKENIZERS, open_stock, write_stock
from dimts.families.chatterbox.vocabulary.placement import Placement, place
from dimts.families.chatterbox.vocabulary.report import placed_lines, unknown_lines
from dimts.families.chatterbox.vocabulary.rows import spelled, start_rows
from dimts.text.language import Language
from dimts.text.merge_report import normalised_texts
from dimts.text.normaliser import Normaliser, TextConfig
from dimts.text.transliteration import load_transliteration


def extend_stock(
    arguments: argparse.Namespace, folder: Path, language: Language, texts: Sequence[str]
) -> None:
    """Say what the tokenizer makes of the texts, before and after, and write the model extended.

    Args:
        arguments: of `dimts extend`.
        folder: the published model.
        language: to be added.
        texts: of a corpus, as they are written.

    Raises:
        UserError: an option has no effect, or the model cannot be extended so.
    """
    for option in ("start", "subwords"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option} has no effect on a model of Chatterbox")
    base = open_stock(folder)
    table = load_transliteration(arguments.transliteration or language.code, language)
    placement = place(base.tokenizer, language, arguments.rows or "in_place")
    config = TextConfig(language=arguments.language, fold_homophones=arguments.fold_homophones)
    read, refused = normalised_texts(Normaliser(language, config), texts)
    lines = placed_lines(base.tokenizer, placement, spelled(base.tokenizer, placement, table))
    if texts:
        lines += unknown_lines("before", base.tokenizer, read)
        lines += unknown_lines("after", placement.tokenizer, read)
    lines += [f"refused: {c!r}, {n} times, as in: {example:.60}" for c, n, example in refused]
    print("\n".join(lines))
    weights = start_rows(
        base.weights(), base.tokenizer, placement, table, arguments.related, arguments.seed
    )
    sizes = base.config.model_copy(update={"text_vocab": placement.tokenizer.n_vocab})
    with new_folder(arguments.out) as partial:
        write_stock(partial, weights, sizes, placement.tokenizer, base.t3_file, folder)
        write_placed(partial, _facts(placement, sha256(folder / base.t3_file), arguments))
    if sizes.text_vocab != STOCK_ROWS[TOKENIZERS[base.t3_file]]:
        print(
            f"the package loads {STOCK_ROWS[TOKENIZERS[base.t3_file]]} rows of text alone, this "
            f"has {sizes.text_vocab}: --rows in_place is for it"
        )


def _facts(placement: Placement, base: str, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "language": placement.language.code,
        "tag": placement.tag,
        "related": arguments.related,
        "seed": arguments.seed,
        "base_sha256": base,
        "rows": placement.rows,
        "replaced": {str(index): token for index, token in placement.replaced.items()},
    }

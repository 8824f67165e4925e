"""A tokenizer of one language alone, for models that start from nothing."""

from __future__ import annotations

from dimts.core.errors import ConfigError
from dimts.families.chatterbox.model.config import START_TEXT, STOP_TEXT, UNK_TEXT
from dimts.families.chatterbox.vocabulary.text import folded
from dimts.families.chatterbox.vocabulary.tokenizer import SPACE, StockTokenizer, tag_of
from dimts.text.language import Language

MARKS = ".,!?-'\""
"""What the package's punctuation makes of a text's own."""
ENGLISH = "[en]"
"""Its tag is how a multilingual tokenizer is known."""


def alphabet_tokenizer(language: Language, n_rows: int) -> tuple[StockTokenizer, dict[str, int]]:
    """A token for each character of a language, in the format and with the ids of the published
    tokenizers where those matter; what remains of `n_rows` is unused.

    Returns:
        The tokenizer, and the rows of the language's tag and characters.

    Raises:
        ConfigError: there are too few rows.
        UserError: the language's code makes no tag.
    """
    tag = tag_of(language.code)
    tags = list(dict.fromkeys((ENGLISH, tag)))
    letters = [c for c in folded("".join((*language.alphabet, MARKS))) if not c.isspace()]
    fixed = {"[STOP]": STOP_TEXT, "[UNK]": UNK_TEXT, SPACE: 2, "[START]": START_TEXT}
    wanted = [token for token in dict.fromkeys((*tags, *letters)) if token not in fixed]
    free = [index for index in range(n_rows) if index not in fixed.values()]
    if len(free) < len(wanted):
        raise ConfigError(
            f"model.t3.text_vocab: {language.name} needs {len(wanted) + len(fixed)} rows at least"
        )
    ids = fixed | dict(zip(wanted, free, strict=False))
    ids |= {f"[unused{index}]": index for index in free[len(wanted) :]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": ids[token], "content": token, "special": token not in tags, **flags}
        for token in sorted((*fixed, *tags), key=ids.__getitem__)
    ]
    vocabulary = dict(sorted(ids.items(), key=lambda item: item[1]))
    model = {"type": "BPE", "unk_token": "[UNK]", "vocab": vocabulary, "merges": []}
    values = {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "model": model,
    }  # fmt: skip
    rows = {token: ids[token] for token in wanted if token != ENGLISH}
    return StockTokenizer(values, f"alphabet of {language.name}"), rows

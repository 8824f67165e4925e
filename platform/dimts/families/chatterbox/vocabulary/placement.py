"""Which rows the characters and the tag of a new language get."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from dimts.core.errors import UserError
from dimts.families.chatterbox.vocabulary.text import foldable, folded
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer, tag_of
from dimts.text.language import Language

Rows = Literal["in_place", "extend"]
PLACEHOLDER = "[PLACEHOLDER"


class Placement(NamedTuple):
    """A vocabulary with one language more.

    Attributes:
        tokenizer: of all.
        language: the new one.
        tag: token that its texts begin with.
        rows: id of each new token.
        replaced: token that had the id before, of rows that were there.
    """

    tokenizer: StockTokenizer
    language: Language
    tag: str
    rows: dict[str, int]
    replaced: dict[int, str]


def place(base: StockTokenizer, language: Language, rows: Rows) -> Placement:
    """Give the language's tag and the characters that the base lacks rows of their own.

    Texts that hold none of the new tokens keep their very ids: rows that are taken over are those
    that no text can reach (`free_rows`), and merges of others stay.

    Raises:
        UserError: the base knows the language, is English alone, or has too few free rows; or the
            language's code makes no tag.
    """
    tag = tag_of(language.code)
    if not base.multilingual:
        raise UserError(
            f"the tokenizer is English alone, whose package writes no language's tag; take the "
            f"multilingual model to add {language.name} ({language.code})"
        )
    if language.code in base.languages:
        raise UserError(f"{language.name} ({language.code}) is one of the model's languages")
    characters = _lacking(base, language)
    if rows == "extend":
        ids = list(range(base.n_vocab, base.n_vocab + 1 + len(characters)))
    else:
        free = free_rows(base)
        placeholders = [index for index in free if _token(base, index).startswith(PLACEHOLDER)]
        if len(free) <= len(characters) or not placeholders:
            raise UserError(
                f"{language.name} needs {1 + len(characters)} rows, and {len(free)} of the "
                f"{base.n_vocab} are free; give --rows extend"
            )
        others = [index for index in free if index not in placeholders]
        # A tag's row must be an added token's, or it would be cut into letters.
        ids = [placeholders[0], *others, *placeholders[1:]]
    placed = dict(zip((tag, *characters), ids, strict=False))
    replaced = {index: _token(base, index) for index in placed.values() if index < base.n_vocab}
    tokenizer = StockTokenizer(_written(base, placed, replaced, tag))
    if lost := [c for c in characters if tokenizer.segment(c) != [placed[c]]]:
        raise UserError(
            f"{''.join(lost)} of {language.name} would not be read by rows of their own"
        )
    return Placement(tokenizer, language, tag, placed, replaced)


def free_rows(base: StockTokenizer) -> list[int]:
    """Ids that no text of the multilingual package gives.

    Those are capitals, and what is written in one letter that NFKD takes apart, as texts are
    folded before; sequences without a merge; placeholders. Composed Cyrillic stays: the stress
    marks of Russian are set after folding.
    """
    reachable = foldable()
    added = {token["content"] for token in base.values["added_tokens"]}
    merged = {"".join(merge) for merge in _merges(base.values)}

    def free(token: str) -> bool:
        if token in added:
            return token.startswith(PLACEHOLDER)
        if len(token) > 1:
            return token not in merged
        return token not in reachable and not _composed_cyrillic(token)

    return sorted(index for token, index in base.ids.items() if free(token))


def _lacking(base: StockTokenizer, language: Language) -> Sequence[str]:
    """Characters of the language's texts, folded, that have no row."""
    characters = dict.fromkeys(folded("".join(language.alphabet)))
    return [c for c in characters if not c.isspace() and not base.knows(c)]


def _written(
    base: StockTokenizer, placed: dict[str, int], replaced: dict[int, str], tag: str
) -> dict[str, Any]:
    """The base's JSON with the placed tokens."""
    values: dict[str, Any] = copy.deepcopy(dict(base.values))
    gone, model = set(replaced.values()), values["model"]
    vocabulary = {token: i for token, i in model["vocab"].items() if token not in gone} | placed
    model["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    model["merges"] = [
        merge
        for merge, (left, right) in zip(model["merges"], _merges(values), strict=True)
        if not gone & {left, right, left + right}
    ]
    like = next(t for t in values["added_tokens"] if t["content"] == f"[{base.languages[0]}]")
    added = [token for token in values["added_tokens"] if token["content"] not in gone]
    added.append({**like, "id": placed[tag], "content": tag})
    values["added_tokens"] = sorted(added, key=lambda token: token["id"])
    return values


def _merges(values: Any) -> list[tuple[str, str]]:
    pairs = (m.split(" ") if isinstance(m, str) else m for m in values["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _token(base: StockTokenizer, index: int) -> str:
    return next(token for token, i in base.ids.items() if i == index)


def _composed_cyrillic(character: str) -> bool:
    composed = unicodedata.decomposition(character)
    return bool(composed) and unicodedata.name(character, "").startswith("CYRILLIC")

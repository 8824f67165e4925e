"""Hugging Face's ``tokenizer.json``: read as a base to extend, written for others to load.

Files in Chatterbox's format are what is read: BPE over characters, a token such as
``[SPACE]`` that is written into the text for each space, tokens such as ``[en]`` that say
which language follows, no token for padding.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from dimts.core.config import build_config
from dimts.core.errors import UserError
from dimts.text.segmentation import read_vocabulary
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import SPACE, TokenizerSpec, read_json

ENDS = ("[STOP]", "[EOS]", "<eos>", "</s>")
SPACES = ("[SPACE]", "<space>", SPACE)
UNUSED = "<unused {}>"
BRACKETED = re.compile(r"\[[a-z]{2,3}\]")


def read_huggingface(path: str | Path) -> Tokenizer:
    """A base without a language of ours yet; raises a `UserError` if it cannot be extended."""
    values = read_json(path)
    try:
        tokens = _tokens(read_vocabulary(values))
        end, space = _named(tokens, "end", ENDS), _named(tokens, "space", SPACES)
    except ValueError as error:
        raise UserError(f"{path}: not a tokenizer that can be extended: {error}") from error
    parts = {"tokens": tokens, "pad": None, "end": end, "space": space, "huggingface": values}
    spec = build_config(TokenizerSpec, {"languages": (), **parts}, {(): str(path)})
    tokenizer = Tokenizer(spec)
    letters = [t for t in tokens if len(t) == 1 and t.isalpha() and tokenizer.knows(t)]
    text = " ".join(letters[:1] * 2)
    if not letters or tokenizer.decode(tokenizer.segment(text)) != text:
        raise UserError(
            f"{path}: a text does not come back from its tokens ({text!r}); only BPE over "
            "characters with a token for the space can be extended"
        )
    return tokenizer


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Our own ``tokenizer.json`` or Hugging Face's; raises a `UserError` if it is neither."""
    ours = read_json(path).get("format") == "dimts-tokenizer"
    return Tokenizer.load(path) if ours else read_huggingface(path)


def to_huggingface(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizers.Tokenizer.from_str` takes as JSON.

    It gives the ids of `Tokenizer.encode_normalised` for normalised text between its start
    and end tokens, ``"<am>ሰላም።<eos>"``, with each space written as the token of the space.
    Only our own `encode` refuses characters outside the vocabulary.
    """
    if tokenizer.spec.huggingface is not None:
        return copy.deepcopy(tokenizer.spec.huggingface)
    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=[]))
    plain.decoder = tokenizers.decoders.Fuse()
    plain.add_special_tokens([tokenizer.tokens[i] for i in sorted(tokenizer.special_ids)])
    values: dict[str, Any] = json.loads(plain.to_str())
    return values


def write_huggingface(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write `to_huggingface` as a file that `tokenizers.Tokenizer.from_file` loads."""
    text = json.dumps(to_huggingface(tokenizer), ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def extended_huggingface(
    base: Tokenizer, new_tokens: Sequence[str], merges: Sequence[tuple[str, str]], start: str
) -> dict[str, Any]:
    """The JSON of `base`, whose ids stay, with tokens and merges behind its own.

    Merges are pairs of tokens that are joined where they meet, in this order; `start` is the token
    that marks the new language.
    """
    values = to_huggingface(base)
    model = values["model"]
    # An added token that the model lacks gets the model's size as its id, which would move.
    for token in values["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    for index, token in enumerate(new_tokens, start=base.n_vocab):
        model["vocab"][token] = index
    if start not in {token["content"] for token in values["added_tokens"]}:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = {"id": model["vocab"][start], "content": start, **flags, "special": True}
        values["added_tokens"].append(added)
    in_one = any(isinstance(merge, str) for merge in model["merges"])
    model["merges"] += [" ".join(merge) if in_one else list(merge) for merge in merges]
    return values


def start_like(base: Tokenizer, code: str) -> str:
    """The start token of a language, written as the base writes its own: <am> or [am]."""
    bracketed = any(BRACKETED.fullmatch(base.tokens[i]) for i in base.special_ids)
    return f"[{code}]" if bracketed else f"<{code}>"


def _tokens(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """Token of each id; a name of our own where no token has the id."""
    by_id: dict[int, str] = {}
    for token, index in vocabulary.items():
        if by_id.setdefault(index, token) != token:
            raise ValueError(f"tokens {by_id[index]!r} and {token!r} share id {index}")
    size = max(by_id, default=-1) + 1
    if size > 2 * len(by_id):
        raise ValueError(f"{len(by_id)} tokens with ids up to {size - 1}: too many holes")
    return tuple(by_id.get(index, UNUSED.format(index)) for index in range(size))


def _named(tokens: Sequence[str], what: str, usual: Sequence[str]) -> str:
    """The first of the usual names that is a token."""
    for token in usual:
        if token in tokens:
            return token
    wanted = ", ".join(map(repr, usual))
    raise ValueError(f"no token for the {what} of a text is there, such as {wanted}")

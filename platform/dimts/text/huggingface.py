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

from pydantic import ValidationError

from dimts.core.errors import UserError
from dimts.text.segmentation import segmenter_problem
from dimts.text.tokenizer import Tokenizer
from dimts.text.tokenizer_spec import SPACE, TokenizerSpec, read_json, start_token

ENDS = ("[STOP]", "[EOS]", "<eos>", "</s>")
SPACES = ("[SPACE]", "<space>", SPACE)
UNUSED = "<unused {}>"
BRACKETED = re.compile(r"\[[a-z]{2,3}\]")


def read_huggingface(
    path: str | Path, end: str | None = None, space: str | None = None
) -> Tokenizer:
    """A base without a language of ours yet; `dimts.text.merging.merge` adds one.

    Args:
        path: a ``tokenizer.json``.
        end: its token for the end of a text; None: one of the usual names.
        space: its token for a space; None: one of the usual names.

    Raises:
        UserError: the file cannot be read, or is of a kind that cannot be extended; says why.
    """
    values = read_json(path)
    if problem := _unsupported(values):
        raise UserError(f"{path}: {problem}")
    try:
        tokens = _tokens(values)
        spec = TokenizerSpec(
            languages=(),
            tokens=tokens,
            pad=None,
            end=_named(tokens, "end", end, ENDS),
            space=_named(tokens, "space", space, SPACES),
            huggingface=values,
        )
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {' '.join(message.split())}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    tokenizer = Tokenizer(spec)
    _check_round_trip(tokenizer, path)
    return tokenizer


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Our own ``tokenizer.json`` or Hugging Face's, whichever the file is.

    Raises:
        UserError: it is neither; says why.
    """
    ours = read_json(path).get("format") == "dimts-tokenizer"
    return Tokenizer.load(path) if ours else read_huggingface(path)


def to_huggingface(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizers.Tokenizer.from_str` takes as JSON.

    It gives the ids of `Tokenizer.encode_normalised` for normalised text between its start
    and end tokens, ``"<am>ሰላም።<eos>"``, with each space written as the token of the space.
    Characters outside the vocabulary are dropped by it without a word if the tokenizer has no
    token for them: only our own `encode` refuses them.
    """
    if tokenizer.spec.huggingface is not None:
        return copy.deepcopy(tokenizer.spec.huggingface)
    ids = {token: index for index, token in enumerate(tokenizer.tokens)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(ids[token], token) for token in sorted_specials(tokenizer)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [],
        },
    }


def write_huggingface(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write `to_huggingface` as a file that `tokenizers.Tokenizer.from_file` loads."""
    text = json.dumps(to_huggingface(tokenizer), ensure_ascii=False, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def extended_huggingface(
    base: Tokenizer, new_tokens: Sequence[str], merges: Sequence[tuple[str, str]], start: str
) -> dict[str, Any]:
    """The JSON of `base` with tokens behind its own, and merges behind its own.

    Args:
        base: whose ids stay.
        new_tokens: get the ids that follow.
        merges: pairs of tokens that are joined where they meet, in this order.
        start: the one of all tokens that marks the new language.
    """
    values = to_huggingface(base)
    model = values["model"]
    # An added token that the model lacks gets the model's size as its id, which would move.
    for token in values["added_tokens"]:
        model["vocab"].setdefault(token["content"], token["id"])
    for index, token in enumerate(new_tokens, start=base.n_vocab):
        model["vocab"][token] = index
    if start not in {token["content"] for token in values["added_tokens"]}:
        values["added_tokens"].append(_added(model["vocab"][start], start))
    in_one = any(isinstance(merge, str) for merge in model["merges"])
    model["merges"] += [" ".join(merge) if in_one else list(merge) for merge in merges]
    return values


def start_like(base: Tokenizer, code: str) -> str:
    """The start token of a language, written as the base writes its own: <am> or [am]."""
    named = f"[{code}]"
    bracketed = any(BRACKETED.fullmatch(base.tokens[i]) for i in base.special_ids)
    return named if bracketed else start_token(code)


def sorted_specials(tokenizer: Tokenizer) -> list[str]:
    """Special tokens in the order of their ids."""
    return [tokenizer.tokens[index] for index in sorted(tokenizer.special_ids)]


def _added(index: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, **flags, "special": True}


def _unsupported(values: Mapping[str, Any]) -> str | None:
    """Why a file of this kind cannot be extended; None if it can."""
    model = values.get("model")
    if not isinstance(model, dict):
        return "not a tokenizer.json: it has no model"
    if model.get("type") != "BPE":
        return f"a {model.get('type')} tokenizer; only BPE over characters can be extended"
    if not isinstance(model.get("vocab"), dict):
        return "not a tokenizer.json: model.vocab is missing"
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout"):
        if model.get(key):
            return f"model.{key} is set; only plain BPE over characters can be extended"
    for key in ("pre_tokenizer", "normalizer"):
        text = json.dumps(values.get(key))
        for kind in ("ByteLevel", "Metaspace"):
            if f'"{kind}"' in text:
                return f"its {key} is {kind}; only BPE over characters can be extended"
    return None


def _tokens(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Token of each id; a name of our own where no token has the id."""
    by_id: dict[int, str] = {}
    entries = list(values["model"]["vocab"].items())
    added = values.get("added_tokens") or []
    if not (isinstance(added, list) and all(isinstance(token, dict) for token in added)):
        raise ValueError("not a tokenizer.json: added_tokens is no list of tokens")
    for token, index in entries + [(entry.get("content"), entry.get("id")) for entry in added]:
        if not isinstance(token, str) or not isinstance(index, int) or index < 0:
            raise ValueError(f"token {token!r} has id {index!r}")
        if by_id.setdefault(index, token) != token:
            raise ValueError(f"tokens {by_id[index]!r} and {token!r} share id {index}")
    size = max(by_id, default=-1) + 1
    if size > 2 * len(by_id):
        raise ValueError(f"{len(by_id)} tokens with ids up to {size - 1}: too many holes")
    tokens = tuple(by_id.get(index, UNUSED.format(index)) for index in range(size))
    if problem := segmenter_problem(values, tokens):
        raise ValueError(problem)
    return tokens


def _named(tokens: Sequence[str], what: str, name: str | None, usual: Sequence[str]) -> str:
    for token in (name,) if name else usual:
        if token in tokens:
            return token
    wanted = name or ", ".join(map(repr, usual))
    raise ValueError(f"no token for the {what} of a text ({wanted}) is there; name it")


def _check_round_trip(tokenizer: Tokenizer, path: str | Path) -> None:
    letters = [t for t in tokenizer.tokens if len(t) == 1 and t.isalpha() and tokenizer.knows(t)]
    text = " ".join(letters[:1] * 2)
    if not letters or tokenizer.decode(tokenizer.segment(text)) != text:
        raise UserError(
            f"{path}: a text does not come back from its tokens ({text!r}); only BPE over "
            "characters with a token for the space can be extended"
        )

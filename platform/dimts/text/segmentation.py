"""Texts in the tokens of a Hugging Face tokenizer, which may be longer than a character."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

READ = {
    "normalizer": ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt"),
    "pre_tokenizer": (
        "Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "UnicodeScripts",
        "BertPreTokenizer", "CharDelimiterSplit",
    ),
}  # fmt: skip
"""Parts that are read, and sequences of them. None holds a regular expression, which can take for
ever, a table, which can end the process, or a text, by which others may swell."""
LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
MAX_TOKEN = 1000


class Segmenter:
    """Cuts normalised texts into tokens by a Hugging Face tokenizer, whose JSON is `values`.

    `space` is its token for a space, which is written into the text before it is cut.
    """

    def __init__(self, values: Mapping[str, Any], space: str) -> None:
        self._tokenizer = _load(values)
        self._space = space
        unknown = values["model"].get("unk_token")
        self._unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)
        self._known: dict[str, bool] = {}

    def ids(self, text: str) -> list[int]:
        """Ids of the text's tokens, without any that a template would put around them."""
        encoded = self._tokenizer.encode(text.replace(" ", self._space), add_special_tokens=False)
        return list(encoded.ids)

    def knows(self, character: str) -> bool:
        """Whether `character` has tokens."""
        if character not in self._known:
            ids = self.ids(character)
            self._known[character] = bool(ids) and self._unknown_id not in ids
        return self._known[character]


def read_vocabulary(values: Mapping[str, Any]) -> dict[str, int]:
    """Ids of a Hugging Face tokenizer's tokens.

    Raises:
        ValueError: it is no plain BPE over characters, or damaged.
    """
    model = values.get("model")
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    if model.get("type") != "BPE":
        raise ValueError(f"a {model.get('type')} tokenizer; only BPE over characters is read")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout"):
        if model.get(key):
            raise ValueError(f"model.{key} is set; only plain BPE over characters is read")
    for key in READ:
        _check_part(values.get(key), key)
    try:
        return _load(values).get_vocab()
    except BaseException as error:  # the library raises nothing more precise, and panics in Rust
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def check_segmenter(values: Mapping[str, Any], tokens: Sequence[str]) -> None:
    """Raise a `ValueError` if a Hugging Face tokenizer cannot segment into `tokens`."""
    vocabulary = read_vocabulary(values)
    if max(map(len, tokens), default=0) > MAX_TOKEN:
        raise ValueError(f"a token has more than {MAX_TOKEN} characters")
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        if not (0 <= index < len(tokens) and tokens[index] == token):
            raise ValueError(f"token {token!r} of id {index} is not that of the vocabulary")


def _load(values: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Of the parts that segment; what would stand around a text or pads it is left out."""
    parts = ("version", "added_tokens", "normalizer", "pre_tokenizer", "model")
    others = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    return tokenizers.Tokenizer.from_str(json.dumps({k: values.get(k) for k in parts} | others))


def _check_part(part: Any, key: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "Sequence" and isinstance(inner := part.get(LISTS[key]), list):
        for one in inner:
            _check_part(one, key)
    elif part is not None and kind not in READ[key]:
        raise ValueError(f"its {key} is {kind}, which is not read")

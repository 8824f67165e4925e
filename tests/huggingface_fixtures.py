"""A tokenizer.json in Chatterbox's format, small, made by training it."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

SPECIALS = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", "[es]"]
CORPUS = ["the cat sat on the mat, and then it slept.", "what is that? el niño está allí!"]
LETTERS = "abcdefghijklmnopqrstuvwxyzñáí.,?!' "


def chatterbox(corpus: list[str]) -> dict[str, Any]:
    """Its specials are in the model's vocabulary, and added tokens as well."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=90,
        special_tokens=SPECIALS,
        initial_alphabet=list(LETTERS.strip()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 3, trainer)
    return json.loads(tokenizer.to_str())


JSON = chatterbox(CORPUS)

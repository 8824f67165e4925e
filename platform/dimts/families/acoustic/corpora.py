"""Corpora made of others: several sets joined, a part of one, two taking turns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.families.acoustic.alignment.search import must_visit
from dimts.families.acoustic.dataset import Corpus, Utterances
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName
from dimts.text.tokenizer import Tokenizer


class JoinedUtterances:
    """Utterances of several splits, one after another, or some of them."""

    def __init__(self, parts: Sequence[Utterances], kept: Sequence[int] | None = None):
        where = [(part, i) for part in parts for i in range(len(part))]
        self._where = where if kept is None else [where[i] for i in kept]
        self.ids = [part.ids[i] for part, i in self._where]
        self.texts = [part.texts[i] for part, i in self._where]
        frames = [part.n_frames[i] for part, i in self._where]
        self.n_frames: NDArray[np.int64] = np.array(frames, np.int64)
        self.columns = set.intersection(*(set(part.columns) for part in parts))

    def __len__(self) -> int:
        return len(self._where)

    def mel(self, index: int) -> NDArray[np.float32]:
        """Natural-log mel, [T, M]."""
        part, i = self._where[index]
        return part.mel(i)

    def column(self, name: str, index: int) -> NDArray[Any]:
        """What an extractor made of an utterance."""
        part, i = self._where[index]
        return part.column(name, i)


def load_corpus(features: FeatureSet, tokenizer: Tokenizer, split: SplitName) -> Corpus:
    """A split with its token ids, each text in the language that its row names.

    Raises:
        UserError: a text has characters outside the vocabulary, or the tokenizer does not
            know its language.
    """
    utterances = features.split(split)
    rows = zip(utterances.texts, utterances.languages, strict=True)
    try:
        tokens = [np.array(tokenizer.encode_normalised(*row), np.int64) for row in rows]
    except UserError as error:
        raise UserError(f"{features.folder}: {error}") from error
    return Corpus(utterances, tokens)


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Several corpora as one; a single one is itself."""
    if len(corpora) == 1:
        return corpora[0]
    utterances = JoinedUtterances([corpus.utterances for corpus in corpora])
    return Corpus(utterances, [ids for corpus in corpora for ids in corpus.tokens])


def draw(corpus: Corpus, n: int) -> Corpus:
    """At most `n` utterances, always the same ones; a smaller draw is a part of a larger one."""
    if n >= len(corpus):
        return corpus
    ids = corpus.utterances.ids
    order = sorted(range(len(corpus)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    kept = sorted(order[:n])
    return Corpus(JoinedUtterances([corpus.utterances], kept), [corpus.tokens[i] for i in kept])


def check_lengths(corpus: Corpus, states_per_token: int) -> None:
    """Refuse an utterance too short for its states beforehand: a GPU would not tell.

    Raises:
        UserError: names it.
    """
    needed = corpus.n_tokens * must_visit(states_per_token)
    if len(short := (corpus.utterances.n_frames < needed).nonzero()[0]):
        i = int(short[0])
        raise UserError(
            f"{corpus.utterances.ids[i]}: {corpus.utterances.n_frames[i]} frames are too few for "
            f"the {needed[i]} states of its text; lower model.states_per_token, or raise "
            f"prepare.min_frames_per_token and run dimts prepare again"
        )

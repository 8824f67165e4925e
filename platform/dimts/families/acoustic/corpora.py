"""Corpora made of others: several sets joined, a part of one, two taking turns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dimts.core.errors import UserError
from dimts.families.acoustic.alignment.search import must_visit
from dimts.families.acoustic.dataset import Corpus, Utterances
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName
from dimts.text.tokenizer import Tokenizer


class PickedUtterances:
    """Utterances of one split or several, each given by its split and its number there."""

    def __init__(self, where: Sequence[tuple[Utterances, int]]):
        self._where = where
        self.ids = [part.ids[i] for part, i in where]
        self.texts = [part.texts[i] for part, i in where]
        self.n_frames = np.array([part.n_frames[i] for part, i in where], np.int64)

    def __len__(self) -> int:
        return len(self._where)

    def mel(self, index: int) -> NDArray[np.float32]:
        """Natural-log mel, [T, M]."""
        part, i = self._where[index]
        return part.mel(i)


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
    where = [(corpus.utterances, i) for corpus in corpora for i in range(len(corpus))]
    return Corpus(PickedUtterances(where), [ids for corpus in corpora for ids in corpus.tokens])


def draw(corpus: Corpus, n: int) -> Corpus:
    """At most `n` utterances, always the same ones; a smaller draw is a part of a larger one."""
    if n >= len(corpus):
        return corpus
    ids = corpus.utterances.ids
    order = sorted(range(len(corpus)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    kept = sorted(order[:n])
    utterances = PickedUtterances([(corpus.utterances, i) for i in kept])
    return Corpus(utterances, [corpus.tokens[i] for i in kept])


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

"""Utterances with token ids and mels: read, joined, drawn, and collated into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimts.core.errors import UserError
from dimts.families.acoustic.alignment.search import must_visit
from dimts.features.feature_set import FeatureSet, FeatureSplit, drawn
from dimts.features.manifest import SplitName
from dimts.text.tokenizer import Tokenizer
from dimts.training.task import Batch, Seed

F0 = "f0"
"""Column of the features."""

TOKEN_MULTIPLE, FRAME_MULTIPLE = 16, 32
"""What padded widths are multiples of on a GPU, see `Corpus.collate`."""


class Utterances(Protocol):
    """What a corpus needs of a split; `dimts.features.feature_set.FeatureSplit` is one."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def n_frames(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def mel(self, index: int) -> NDArray[np.float32]:
        """Natural-log mel, [T, M]."""


@dataclass(frozen=True)
class AcousticBatch(Batch):
    """Utterances padded to the longest of them; `size` counts frames.

    Attributes:
        tokens_BN, n_tokens_B: int64.
        mel_BTM, n_frames_B: natural-log mel, float32, zero on padding; int64.
        durations_BNS: int64, where an aligner has given them.
        f0_BT: Hz, float32, 0 where unvoiced, where the features have it.
        speakers_B: int64, rows of the table of speakers, where the model has one.
        n_tokens: of the whole batch over all workers.
    """

    tokens_BN: Tensor
    n_tokens_B: Tensor
    mel_BTM: Tensor
    n_frames_B: Tensor
    durations_BNS: Tensor | None
    n_tokens: int
    f0_BT: Tensor | None = None
    speakers_B: Tensor | None = None


class Corpus:
    """A split together with its token ids, F0 of its frames if that is known, each utterance's row
    in the table of speakers if there is one, and, once aligned, its durations.

    Implements `dimts.training.task.Dataset`.
    """

    def __init__(
        self,
        utterances: Utterances,
        tokens: Sequence[NDArray[np.int64]],
        f0: Sequence[NDArray[np.float32]] | None = None,
        speakers: NDArray[np.int64] | None = None,
    ):
        self.utterances = utterances
        self.tokens = tokens
        self.f0 = f0
        self.speakers = speakers
        self.n_tokens = np.array([len(t) for t in tokens], np.int64)
        self.durations: Sequence[NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def ids(self) -> Sequence[str]:
        return self.utterances.ids

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.utterances.n_frames

    def collate(
        self,
        indices: Sequence[int],
        whole: Sequence[int] | None = None,
        *,
        seed: Seed = (0,),
        pad_to_multiple: bool = False,
    ) -> AcousticBatch:
        """Collate utterances; see `Dataset.collate`.

        For each shape that it has not met cuDNN plans its convolutions anew, which takes longer
        than the step: hence `pad_to_multiple`.
        """
        total = indices if whole is None else whole
        n_frames = self.utterances.n_frames[list(indices)]
        n_tokens = self.n_tokens[list(indices)]
        n_mels = self.utterances.mel(indices[0]).shape[1]
        width, length = int(n_tokens.max()), int(n_frames.max())
        if pad_to_multiple:
            width, length = width + -width % TOKEN_MULTIPLE, length + -length % FRAME_MULTIPLE
        tokens = torch.zeros(len(indices), width, dtype=torch.long)
        mel = torch.zeros(len(indices), length, n_mels)
        f0 = torch.zeros(len(indices), length) if self.f0 is not None else None
        durations = None
        if self.durations is not None:
            n_states = self.durations[indices[0]].shape[1]
            durations = torch.zeros(*tokens.shape, n_states, dtype=torch.long)
        for row, index in enumerate(indices):
            tokens[row, : n_tokens[row]] = torch.from_numpy(self.tokens[index])
            # The mapped array is read-only, which torch.from_numpy warns of: copy by numpy.
            mel[row, : n_frames[row]].numpy()[:] = self.utterances.mel(index)
            if f0 is not None and self.f0 is not None:
                f0[row, : n_frames[row]].numpy()[:] = self.f0[index]
            if durations is not None and self.durations is not None:
                durations[row, : n_tokens[row]] = torch.from_numpy(self.durations[index])
        return AcousticBatch(
            ids=[self.utterances.ids[i] for i in indices],
            size=int(self.utterances.n_frames[list(total)].sum()),
            tokens_BN=tokens,
            n_tokens_B=torch.from_numpy(n_tokens),
            mel_BTM=mel,
            n_frames_B=torch.from_numpy(n_frames),
            durations_BNS=durations,
            n_tokens=int(self.n_tokens[list(total)].sum()),
            f0_BT=f0,
            speakers_B=None
            if self.speakers is None
            else torch.from_numpy(self.speakers[list(indices)]),
        )


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


def load_corpus(
    features: FeatureSet, tokenizer: Tokenizer, split: SplitName, speakers: Sequence[str] = ()
) -> Corpus:
    """A split with its token ids, each text in the language that its row names.

    Args:
        features: that the split is of.
        tokenizer: of the model.
        split: train, val or test.
        speakers: the model's table of speakers; empty if it has none.

    Raises:
        UserError: a text has characters outside the vocabulary, or the model does not know its
            language or its speaker.
    """
    utterances = features.split(split)
    rows = zip(utterances.texts, utterances.languages, strict=True)
    try:
        tokens = [np.array(tokenizer.encode_normalised(*row), np.int64) for row in rows]
    except UserError as error:
        raise UserError(f"{features.folder}: {error}") from error
    f0 = utterances.steps(F0) if F0 in features.manifest.columns else None
    return Corpus(utterances, tokens, f0, _rows_of(utterances, speakers, features.folder))


def _rows_of(
    utterances: FeatureSplit, speakers: Sequence[str], folder: Path
) -> NDArray[np.int64] | None:
    """Each utterance's row in the table of speakers; None if there is no table."""
    if not speakers:
        return None
    row_of = {name: row for row, name in enumerate(speakers)}
    names = utterances.values("speaker")
    if unknown := sorted({*names} - row_of.keys()):
        raise UserError(
            f"{folder}: is spoken by {unknown[0]}, whom the model does not know; it knows "
            f"{', '.join(speakers)}"
        )
    return np.array([row_of[name] for name in names], np.int64)


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Several corpora as one; a single one is itself."""
    if len(corpora) == 1:
        return corpora[0]
    where = [(corpus.utterances, i) for corpus in corpora for i in range(len(corpus))]
    tokens = [ids for corpus in corpora for ids in corpus.tokens]
    f0 = [row for corpus in corpora for row in corpus.f0 or ()]
    rows = [corpus.speakers for corpus in corpora if corpus.speakers is not None]
    return Corpus(
        PickedUtterances(where),
        tokens,
        f0 if len(f0) == len(where) else None,
        np.concatenate(rows) if rows else None,
    )


def draw(corpus: Corpus, n: int) -> Corpus:
    """At most `n` utterances, always the same ones; a smaller draw is a part of a larger one."""
    return corpus if n >= len(corpus) else pick(corpus, drawn(corpus.ids, n))


def of_speaker(corpus: Corpus, row: int) -> Corpus:
    """What one speaker says; all of it if the model has no table of speakers."""
    if corpus.speakers is None:
        return corpus
    return pick(corpus, (corpus.speakers == row).nonzero()[0].tolist())


def pick(corpus: Corpus, kept: Sequence[int]) -> Corpus:
    """Some utterances, without their durations."""
    utterances = PickedUtterances([(corpus.utterances, i) for i in kept])
    f0 = None if corpus.f0 is None else [corpus.f0[i] for i in kept]
    rows = None if corpus.speakers is None else corpus.speakers[list(kept)]
    return Corpus(utterances, [corpus.tokens[i] for i in kept], f0, rows)


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

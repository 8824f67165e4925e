"""Utterances with token ids and mels, collated into batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        ...

    @property
    def columns(self) -> Collection[str]:
        """Names of what `column` may be asked for."""
        ...

    def column(self, name: str, index: int) -> NDArray[Any]:
        """What an extractor made of an utterance."""
        ...


@dataclass(frozen=True)
class AcousticBatch(Batch):
    """Utterances padded to the longest of them; `size` counts frames.

    Attributes:
        tokens_BN, n_tokens_B: int64.
        mel_BTM, n_frames_B: natural-log mel, float32, zero on padding; int64.
        durations_BNS: int64, where an aligner has given them.
        f0_BT: Hz, float32, 0 where unvoiced, where the features have it.
        n_tokens: of the whole batch over all workers.
    """

    tokens_BN: Tensor
    n_tokens_B: Tensor
    mel_BTM: Tensor
    n_frames_B: Tensor
    durations_BNS: Tensor | None
    n_tokens: int
    f0_BT: Tensor | None = None


class Corpus:
    """A split together with its token ids and, once aligned, its durations.

    Implements `dimts.training.task.Dataset`.
    """

    def __init__(self, utterances: Utterances, tokens: Sequence[NDArray[np.int64]]):
        self.utterances = utterances
        self.tokens = tokens
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
        f0 = torch.zeros(len(indices), length) if F0 in self.utterances.columns else None
        durations = None
        if self.durations is not None:
            n_states = self.durations[indices[0]].shape[1]
            durations = torch.zeros(*tokens.shape, n_states, dtype=torch.long)
        for row, index in enumerate(indices):
            tokens[row, : n_tokens[row]] = torch.from_numpy(self.tokens[index])
            # The mapped array is read-only, which torch.from_numpy warns of: copy by numpy.
            mel[row, : n_frames[row]].numpy()[:] = self.utterances.mel(index)
            if f0 is not None:
                f0[row, : n_frames[row]].numpy()[:] = self.utterances.column(F0, index)
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
        )

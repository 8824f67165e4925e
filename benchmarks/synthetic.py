"""Utterances with the shape of speech, and the training of a model on them, without features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from dimts.audio.mel import MelConfig
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.metrics import SELECTION
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.objective import AcousticObjective
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.task import Objective, Task, WriteBundle

FRAMES_A_TOKEN = 9
MEDIAN_SECONDS, SPREAD, SHORTEST_SECONDS, MAX_SECONDS = 4.0, 0.45, 1.5, 10.0
POOL_FRAMES = 100_000
CHANGE_FRAMES = 4  # a mel changes its direction as often as this
MEAN, STD = -5.0, 2.0  # natural-log mel


class SyntheticSpeech:
    """`dimts.families.acoustic.dataset.Utterances` of random length: smooth noise for a mel.

    Args:
        n: number of utterances.
        mel: spec whose frame rate and bins they have.
        seed: the same one gives the same utterances.
    """

    def __init__(self, n: int, mel: MelConfig, seed: int = 0):
        rng = np.random.default_rng(seed)
        seconds = np.exp(rng.normal(np.log(MEDIAN_SECONDS), SPREAD, n))
        seconds = seconds.clip(SHORTEST_SECONDS, MAX_SECONDS)
        n_samples = (seconds * mel.sample_rate).astype(np.int64)
        self.n_frames: NDArray[np.int64] = 1 + n_samples // mel.hop_length
        self.ids: Sequence[str] = [f"synthetic_{i:05d}" for i in range(n)]
        self.texts: Sequence[str] = [""] * n
        # One pool that utterances are slices of, as they are slices of a memory-mapped file.
        coarse = rng.standard_normal((1, mel.n_mels, POOL_FRAMES // CHANGE_FRAMES), np.float32)
        smooth = interpolate(torch.from_numpy(coarse), POOL_FRAMES, mode="linear")
        self._pool: NDArray[np.float32] = (smooth[0].T * STD + MEAN).contiguous().numpy()
        self._start = rng.integers(0, POOL_FRAMES - self.n_frames.max(), n)

    def __len__(self) -> int:
        return len(self.ids)

    def mel(self, index: int) -> NDArray[np.float32]:
        """Natural-log mel, [T, M]."""
        start = self._start[index]
        return self._pool[start : start + self.n_frames[index]]


def synthetic_corpus(
    n: int, tokenizer: Tokenizer, mel: MelConfig, n_states: int, seed: int = 0
) -> Corpus:
    """`SyntheticSpeech` with random texts of the vocabulary, and durations.

    Args:
        n: number of utterances.
        tokenizer: whose tokens the texts are made of.
        mel: spec of the frames.
        n_states: spans that a token's durations are given for.
        seed: of everything random.
    """
    utterances = SyntheticSpeech(n, mel, seed)
    rng = np.random.default_rng((seed, 1))
    start, end = tokenizer.start_ids[tokenizer.languages[-1]], tokenizer.eos_id
    letters = np.array(sorted(set(range(tokenizer.n_vocab)) - tokenizer.special_ids))
    tokens = []
    for length in utterances.n_frames // FRAMES_A_TOKEN - 2:
        text = letters[rng.integers(len(letters), size=length)]
        tokens.append(np.array([start, *text, end], np.int64))
    corpus = Corpus(utterances, tokens)
    corpus.durations = [
        _durations(int(t), len(ids), n_states, rng)
        for t, ids in zip(utterances.n_frames, tokens, strict=True)
    ]
    return corpus


def _durations(
    n_frames: int, n_tokens: int, n_states: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """[n_tokens, n_states], each at least 1, with a sum of `n_frames`."""
    n = n_tokens * n_states
    durations = 1 + rng.multinomial(n_frames - n, np.full(n, 1 / n))
    return durations.reshape(n_tokens, n_states).astype(np.int32)


def _write_nothing(
    folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None: ...


def synthetic_task(
    model: T3,
    corpus: Corpus,
    config: AcousticTrainingConfig,
    write_bundle: WriteBundle = _write_nothing,
) -> Task:
    """The training of a model on a corpus, which it is validated on as well."""
    objective = AcousticObjective(model, config)
    return Task(
        model=model,
        objectives=(Objective("acoustic", objective, config.optimizer),),
        train=corpus,
        val=corpus,
        selection=SELECTION,
        unit="frames",
        write_bundle=write_bundle,
    )


def padding_share(lengths: NDArray[np.int64], batches: Sequence[Sequence[int]]) -> float:
    """The share of a batch's units that is padding, over all batches."""
    real = sum(int(lengths[b].sum()) for b in batches)
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    return 1 - real / padded

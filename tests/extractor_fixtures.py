"""An extractor with a model, and a reader of corpora with several utterances in a recording."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.utterance import Utterance
from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig
from dimts.features.schema import Arrays, Column, Extract, Resources

HOP = 160


class TokenSettings(Config):
    """Settings of `TokenExtractor`."""

    seed: int = 0
    n_tokens: int = 50


DEFAULT = TokenSettings()


@dataclass(frozen=True)
class TokenExtractor:
    """Tokens by a convolution that nobody trained, and an embedding of the whole.

    Attributes:
        weights: a folder that has to be there; the process that finds `kill` in it ends.
        faulty: whether the tokens are of another type than was declared.
    """

    settings: TokenSettings = DEFAULT
    version: int = 1
    weights: str = ""
    faulty: bool = False
    name = "tokens"
    unit = "tokens"
    sample_rate = 8_000
    resources = Resources(cpus=0.5, gpus=0.25, actor=True)
    columns = (
        Column(name="token", dtype="int64"),
        Column(name="embedding", dtype="float32", shape=(2, 3), ragged=False),
    )

    def open(self) -> Extract:
        if self.weights and not os.path.isdir(self.weights):
            raise UserError(f"{self.weights}: no such model; name its folder")
        source = np.random.default_rng(self.settings.seed)
        weight = source.standard_normal((self.settings.n_tokens, 2 * HOP), np.float32)

        def extract(wave: npt.NDArray[np.float32], sample_rate: int) -> Arrays:
            assert sample_rate == self.sample_rate
            if self.weights and (kill := Path(self.weights, "kill")).exists():
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            windows = np.lib.stride_tricks.sliding_window_view(wave, 2 * HOP)[::HOP]
            scores = np.einsum("nw,tw->nt", weight, windows)  # the same in any number of threads
            token = scores.argmax(0)
            embedding = scores.mean(1)[:6].reshape(2, 3)
            return {"token": token.astype(np.int32) if self.faulty else token,
                    "embedding": embedding}  # fmt: skip

        return extract


def read_cues(corpus: CorpusConfig, language: str) -> Iterator[Utterance]:
    """Rows ``id|file|start|end|speaker|text`` of `cues.csv`; an empty end is the recording's."""
    assert isinstance(corpus.path, Path)
    lines = (corpus.path / "cues.csv").read_text(encoding="utf-8").splitlines()
    for row, line in enumerate(lines, start=1):
        name, audio, start, end, speaker, text = line.split("|")
        yield Utterance(
            name, Path(audio), text, speaker, language, row,
            float(start), float(end) if end else None,
        )  # fmt: skip

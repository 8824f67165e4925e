"""A trained recogniser at work: speech to letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import edit_distance

from dimts.audio.mel import Float32Array, log_mel
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.recogniser.bundle import Bundle, load_bundle
from dimts.families.recogniser.model import written


class Reader:
    """Writes what is said. It is a `dimts.families.protocol.Speaker` by its attributes alone."""

    voices: Sequence[str] = ()

    def __init__(self, bundle: Bundle):
        self.model, self.tokenizer, self.mel = bundle
        self.languages: Sequence[str] = self.tokenizer.languages

    @classmethod
    def load(cls, bundle: str | Path, device: str = "cpu") -> Self:
        """The recogniser of a bundle folder; raises like `load_bundle`."""
        return cls(load_bundle(Path(bundle), device))

    @property
    def sample_rate(self) -> int:
        return self.mel.sample_rate

    def read(self, wave_S: Float32Array) -> str:
        """The normalised text of samples in [-1, 1] at `sample_rate`."""
        return self.read_mel(log_mel(wave_S, self.mel))

    def read_mel(self, mel_TM: NDArray[np.float32]) -> str:
        """The normalised text of a natural-log mel."""
        return self.tokenizer.decode(written(self.scores(mel_TM)))

    def scores(self, mel_TM: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities [S, V + 1] of tokens and the blank."""
        device = self.model.mel_mean_M.device
        with one_thread(), torch.inference_mode():
            mel_BTM = torch.from_numpy(np.array(mel_TM, np.float32))[None].to(device)
            scores_BSV, _ = self.model(mel_BTM, torch.tensor([len(mel_TM)], device=device))
        return scores_BSV[0].cpu().numpy()

    def misread(self, heard: str, text: str) -> float:
        """Letters of a normalised text that were read as others, not at all, or too many, in % of
        all of them; punctuation is not heard, and does not count."""
        heard, text = (self._letters(one) for one in (heard, text))
        return 100 * edit_distance(text, heard) / max(1, len(text))

    def normalise(self, text: str) -> str:
        """A raw text as it would be read.

        Raises:
            UserError: it has unknown characters, or nothing to say.
        """
        return self.tokenizer.normaliser().normalise(text)

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Float32Array:  # fmt: skip
        """Refuse.

        Raises:
            UserError: always; says what a recogniser is for.
        """
        raise UserError(
            "a recogniser reads and does not speak: name it as judges.reader, or give it speech, "
            "recogniser.read(wave)"
        )

    def _letters(self, text: str) -> str:
        marks = self.tokenizer.spec.languages[0].language.punctuation
        return " ".join("".join(" " if c in marks else c for c in text).split())

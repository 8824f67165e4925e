"""Text to speech from a bundle alone."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig
from dimts.core.errors import UserError
from dimts.core.threads import one_thread
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.model.t3 import T3
from dimts.text.tokenizer import Tokenizer

MIN_SPEED, MAX_SPEED = 0.25, 4.0
MAX_TOKENS = 8000
"""Of a text that is spoken at once: time and memory grow with their square."""


class AcousticSpeaker:
    """A voice that speaks, by Griffin-Lim; see `dimts.families.protocol.Speaker`.

    The model is in eval mode. `language` is the code of what is spoken where none is named; None:
    the tokenizer's default.
    """

    def __init__(
        self, model: T3, tokenizer: Tokenizer, mel: MelConfig, language: str | None = None
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.mel_config = mel
        self.language = language

    @classmethod
    def load(cls, bundle: str | Path, device: str = "cpu") -> Self:
        """The voice of a bundle folder.

        Raises:
            BundleError: the folder is no bundle, is damaged, or does not fit together.
        """
        loaded = load_bundle(bundle, device)
        # A base may be adapted to a language that it knows, which is not its tokenizer's last.
        learned_last = loaded.manifest.origin.get("language")
        return cls(loaded.model, loaded.tokenizer, loaded.mel, learned_last)

    @property
    def sample_rate(self) -> int:
        return self.mel_config.sample_rate

    @property
    def languages(self) -> list[str]:
        return [known.language.code for known in self.tokenizer.spec.languages]

    @property
    def voices(self) -> list[str]:
        return []

    @torch.no_grad()
    def mel(
        self, text: str, speed: float = 1.0, language: str | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Natural-log mel of a raw text, [T, M], and the frames a token state, [N, S].

        Raises:
            UserError: the text is empty, too long to be spoken at once or has characters outside
                the vocabulary, the speed is out of range, the voice does not know the language,
                or it learned nonsense.
        """
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise UserError(f"speed {speed:g}: must be between {MIN_SPEED} and {MAX_SPEED:g}")
        device = self.model.mel_mean_M.device
        ids = self.tokenizer.encode(text, language or self.language)
        if len(ids) > MAX_TOKENS:
            raise UserError(
                f"{text!r:.60}: {len(ids)} tokens, at most {MAX_TOKENS} are spoken at once; split "
                "it into sentences"
            )
        tokens = torch.tensor([ids], device=device)
        count = torch.tensor([tokens.shape[1]], device=device)
        with one_thread():
            output = self.model(tokens, count, speed=speed)
        mel_TM = self.model.denormalise(output.mel_BTM)[0].cpu().numpy()
        if not np.isfinite(mel_TM).all():
            raise UserError(f"{text!r:.60}: the voice has no mel for it: its weights are nonsense")
        return mel_TM, output.durations_BNS[0].cpu().numpy()

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Samples in [-1, 1] at `sample_rate`; raises like `mel`."""
        if voice:
            raise UserError(f"voice {voice}: there is one only; leave it out")
        mel_TM, _ = self.mel(text, speed, language)
        return self.vocode(mel_TM)

    def vocode(self, mel_TM: NDArray[np.float32]) -> NDArray[np.float32]:
        """Natural-log mel, [T, M], to samples."""
        with one_thread():
            return griffin_lim(mel_TM, config=self.mel_config)

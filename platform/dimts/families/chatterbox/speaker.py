"""A trained T3 at work: text to speech tokens, and to waves where something makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from dimts.audio.mel import Float32Array
from dimts.bundles.bundle import read_settings
from dimts.core.config import Config, build_config
from dimts.core.errors import UserError
from dimts.families.chatterbox.bundle import load_bundle
from dimts.families.chatterbox.model.config import MAX_SPEECH
from dimts.families.chatterbox.model.generation import generate
from dimts.families.chatterbox.model.sampling import Sampling
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.objective import EMOTION
from dimts.families.chatterbox.random_projection import SAMPLE_RATE, RandomProjection
from dimts.families.chatterbox.spoken_text import TextReader, read_language
from dimts.families.chatterbox.tokens_config import RandomProjectionTokens, TokensConfig
from dimts.families.chatterbox.voices import BundledVoices, Voice, read_voices

S3GEN_RATE = 24_000
PACE_ROOM = 1.5
"""Times the pace of the slowest row that speech may take before it is ended."""
PAUSE_SECONDS = 0.2
"""Between the pieces of a long text."""


class TokensSection(Config):
    """The section of a bundle's configuration that says what its tokens are."""

    tokens: TokensConfig


class ChatterboxSpeaker:
    """A T3 with the voices of its corpus.

    Args:
        model: in evaluation mode.
        reader: of texts.
        voices: of the corpus.
        tokens: what the model's tokens are.
    """

    def __init__(self, model: T3, reader: TextReader, voices: BundledVoices, tokens: TokensConfig):
        self._model, self._reader, self._voices, self._tokens = model, reader, voices, tokens
        self.languages: Sequence[str] = reader.languages
        self.voices: Sequence[str] = tuple(voices.voices)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """The speaker of a bundle's folder.

        Raises:
            BundleError: the folder is no such bundle, is damaged, or does not fit together.
        """
        bundle = load_bundle(folder)
        values = {"tokens": read_settings(folder, ("tokens",))["tokens"]}
        section = build_config(TokensSection, values, {(): str(folder)})
        reader = TextReader(bundle.tokenizer, read_language(folder))
        return cls(bundle.model(device), reader, read_voices(folder), section.tokens)

    @property
    def sample_rate(self) -> int:
        """Of what it speaks, in Hz."""
        return SAMPLE_RATE if isinstance(self._tokens, RandomProjectionTokens) else S3GEN_RATE

    def speech_tokens(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        sampling: Sampling | None = None,
    ) -> list[NDArray[np.int64]]:  # fmt: skip
        """Ids of a text, 25 a second, one array for each piece of it; the same ones each time.

        A piece is ended where it takes `PACE_ROOM` times as long as the slowest row of the corpus.
        Its last token is left out, as in the package, where it is 40 ms of noise.

        Raises:
            UserError: the text cannot be read, or there is no such language or voice.
        """
        chosen = self._voice(voice)
        speaker_E, prompt_P = torch.tensor(chosen.speaker), torch.from_numpy(chosen.prompt)
        spoken = []
        for number, piece in enumerate(self._reader.pieces(text, language)):
            room = math.ceil(PACE_ROOM * self._voices.pace * len(piece.ids))
            drawn = sampling or Sampling()
            drawn = drawn.model_copy(update={"max_tokens": min(drawn.max_tokens, room, MAX_SPEECH)})
            ids_N = torch.tensor(piece.ids)
            made = generate(self._model, ids_N, speaker_E, prompt_P, EMOTION, drawn, number)
            spoken.append(made.ids[:-1].cpu().numpy())
        return spoken

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Float32Array:  # fmt: skip
        """Samples of a text; see `dimts.families.protocol.Speaker`.

        Raises:
            UserError: see there; or nothing here makes waves of S3's tokens.
        """
        if (speed, pitch) != (1, 1):
            raise UserError("this model cannot change speed or pitch; leave them out")
        tokens = self.speech_tokens(text, language=language, voice=voice)
        if not isinstance(self._tokens, RandomProjectionTokens):
            n = sum(map(len, tokens))
            raise UserError(
                f"{n} speech tokens ({n / 25:.1f} s) were made, and S3Gen, which makes waves of "
                "them, is no part of dimts; dimts export writes a folder for the package "
                "chatterbox-tts, which has it"
            )
        quantiser, speaker = RandomProjection(self._tokens), self._voice(voice).speaker
        pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
        waves = [quantiser.wave(ids, speaker) for ids in tokens if len(ids)]
        parts = [part for wave in waves for part in (wave, pause)]
        return np.concatenate(parts[:-1]) if parts else pause

    def _voice(self, name: str | None) -> Voice:
        if name is None:
            return next(iter(self._voices.voices.values()))
        if name not in self._voices.voices:
            known = ", ".join(list(self._voices.voices)[:20])
            raise UserError(f"voice {name!r} is not one of the model's: {known}")
        return self._voices.voices[name]

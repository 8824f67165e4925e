"""Speech tokens, prompt tokens and the voice's vector as columns of the features."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dimts.audio.mel import Float32Array
from dimts.bundles.bundle import sha256
from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.families.chatterbox.model.config import MAX_PROMPT, SPEAKER_WIDTH
from dimts.families.chatterbox.tokens_config import RandomProjectionTokens, S3Tokens
from dimts.features.schema import Arrays, Column, Extract, Resources

SAMPLE_RATE = 16_000
PROMPT_SECONDS = 6
SPEECH, PROMPT, SPEAKER = "speech_ids", "prompt_ids", "speaker_emb"
"""Columns."""
COLUMNS = (
    Column(name=SPEECH, dtype="int16"),
    Column(name=PROMPT, dtype="int16"),
    Column(name=SPEAKER, dtype="float32", shape=(SPEAKER_WIDTH,), ragged=False),
)
NAMES = {"s3gen": ("s3gen.safetensors", "s3gen.pt"), "ve": ("ve.safetensors", "ve.pt")}
"""Of the files with weights in the folder of the published model."""


class Quantiser(Protocol):
    """What makes tokens of waves at 16 kHz."""

    def tokens(self, wave: Float32Array) -> NDArray[np.int16]: ...

    def speaker(self, wave: Float32Array) -> Float32Array: ...


class TokenSettings(Config):
    """What the tokens of an utterance depend on.

    Attributes:
        kind: of the tokens.
        weights: SHA-256 of each file of weights, by its name in `NAMES`.
        digits, seed: of a random projection.
    """

    kind: str
    weights: dict[str, str] = Field(default={})
    digits: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class TokenExtractor:
    """Speech tokens, 25 a second; see `Extractor`.

    The prompt's are those of the first 6 s by themselves: a tokenizer hears what follows, too, so
    that a piece of the whole clip's tokens is something else.
    """

    tokens: S3Tokens | RandomProjectionTokens
    settings: TokenSettings = field(hash=False)
    name = "speech_tokens"
    version = 1
    unit = "tokens"
    sample_rate = SAMPLE_RATE
    columns = COLUMNS

    @classmethod
    def of(cls, tokens: S3Tokens | RandomProjectionTokens) -> TokenExtractor:
        """One by the weights that are there now.

        Raises:
            UserError: weights are missing.
        """
        if isinstance(tokens, RandomProjectionTokens):
            return cls(tokens, TokenSettings(**tokens.model_dump()))
        tokens = tokens.model_copy(update={"model": tokens.model.absolute()})
        weights = {name: sha256(weights_file(tokens.model, name)) for name in NAMES}
        return cls(tokens, TokenSettings(kind=tokens.kind, weights=weights))

    @property
    def resources(self) -> Resources:
        """An actor, which keeps the weights, for S3."""
        if isinstance(self.tokens, S3Tokens):
            return Resources(gpus=self.tokens.gpus, actor=True)
        return Resources()

    def open(self) -> Extract:
        """Load the weights.

        Raises:
            UserError: weights are missing or are others than at first, or so is a package.
        """
        if isinstance(self.tokens, S3Tokens):
            from dimts.families.chatterbox.s3 import S3Quantiser

            for name, before in self.settings.weights.items():
                file = weights_file(self.tokens.model, name)
                if sha256(file) != before:
                    raise UserError(f"{file}: is not the file that this was begun with")
            return partial(_extract, S3Quantiser(self.tokens.model))
        from dimts.families.chatterbox.random_projection import RandomProjection

        return partial(_extract, RandomProjection(self.tokens))


def weights_file(model: Path, name: str) -> Path:
    """The file of the published model's weights of one part, see `NAMES`.

    Raises:
        UserError: there is none.
    """
    for file in NAMES[name]:
        if (model / file).is_file():
            return model / file
    raise UserError(
        f"tokens.model={model}: has no {' or '.join(NAMES[name])}; name the folder into which "
        "the published model was downloaded, or take tokens.kind: random_projection for a trial"
    )


def reference(quantiser: Quantiser, wave: Float32Array) -> dict[str, Any]:
    """Prompt tokens and vector of a voice that speaks `wave`, at 16 kHz."""
    crop = wave[: PROMPT_SECONDS * SAMPLE_RATE]
    return {PROMPT: quantiser.tokens(crop)[:MAX_PROMPT], SPEAKER: quantiser.speaker(wave)}


def _extract(quantiser: Quantiser, wave: Float32Array, sample_rate: int) -> Arrays:
    assert sample_rate == SAMPLE_RATE
    return {SPEECH: quantiser.tokens(wave), **reference(quantiser, wave)}

"""Sizes of the T3 and of its adapters; who only reads settings need not wait for torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dimts.core.config import MAX_LAYERS, MAX_WIDTH, Config

STOP_TEXT, UNK_TEXT, START_TEXT = 0, 1, 255
N_SPEECH = 6561
"""Ids of the S3 tokenizer, 25 a second; the two below follow them."""
START_SPEECH, STOP_SPEECH = 6561, 6562
MAX_TEXT, MAX_SPEECH = 2048, 4096
"""Tokens of a text and of its speech, at most; the position tables hold 2 and 4 rows more."""
MAX_PROMPT = 150
"""S3 tokens of a prompt, at most: 6 s."""
SPEAKER_WIDTH = 256
N_LATENTS = 32
N_CONDITION = 1 + N_LATENTS + 1
"""Positions before the text: the speaker, the perceiver's latents, the emotion."""
PERCEIVER_HEADS = 4

Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class T3Config(Config):
    """Sizes of a T3; those of the published multilingual model by default.

    Attributes:
        text_vocab: rows of the text's embedding and head.
        speech_vocab: rows of the speech's embedding and head.
        hidden: width of the model.
        layers: transformer blocks.
        heads: attention heads; divides `hidden` into even widths.
        feed_forward: width inside a block's gated feed-forward.
        perceiver_dropout: share of the perceiver's attention that is dropped in training.
    """

    text_vocab: int = Field(2454, gt=START_TEXT, le=MAX_WIDTH)
    speech_vocab: int = Field(8194, gt=STOP_SPEECH, le=MAX_WIDTH)
    hidden: int = Field(1024, ge=1, le=MAX_WIDTH)
    layers: int = Field(30, ge=1, le=MAX_LAYERS)
    heads: int = Field(16, ge=1, le=MAX_WIDTH)
    feed_forward: int = Field(4096, ge=1, le=MAX_WIDTH)
    perceiver_dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % (2 * self.heads) or self.hidden % PERCEIVER_HEADS:
            raise ValueError(
                f"hidden: {self.hidden} must be divisible by {2 * self.heads} (twice heads) and "
                f"by {PERCEIVER_HEADS}"
            )
        return self

    @classmethod
    def full_multilingual(cls) -> Self:
        """The published multilingual model: 536 million parameters."""
        return cls()

    @classmethod
    def tiny(cls, text_vocab: int = 704) -> Self:
        """1.7 million parameters, for a CPU."""
        return cls(text_vocab=text_vocab, hidden=64, layers=2, heads=4, feed_forward=256)


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021) beside linear layers of the transformer.

    Attributes:
        rank: of each adapter.
        alpha: the adapters' output is multiplied by alpha / rank.
        linears: which layers have one, in every block.
    """

    rank: int = Field(32, ge=1, le=MAX_WIDTH)
    alpha: float = Field(64.0, gt=0)
    linears: tuple[Linear, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )

    @property
    def scale(self) -> float:
        """What the adapters' output is multiplied by."""
        return self.alpha / self.rank

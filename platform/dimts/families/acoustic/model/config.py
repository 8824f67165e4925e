"""Settings of the model and of its loss; who only reads settings need not wait for torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dimts.core.config import MAX_LAYERS, MAX_WIDTH, Config, OddKernel


class EncoderConfig(Config):
    """Sizes of the text encoder.

    Attributes:
        layers: transformer blocks.
        heads: attention heads; divides the model's width.
        feed_forward: channels inside a block's convolutional feed-forward.
        kernel: tokens that its convolutions see; odd.
        dropout: share of activations dropped in training.
        language_everywhere: add the vector of a text's first token, which names its language,
            to every token's.
        embedding_width: channels of the rows of tokens and factors where other than the
            model's width, as of an embedding made elsewhere; a projection follows.
    """

    layers: int = Field(4, ge=1, le=MAX_LAYERS)
    heads: int = Field(4, ge=1, le=MAX_WIDTH)
    feed_forward: int = Field(512, ge=1, le=MAX_WIDTH)
    kernel: OddKernel = 3
    dropout: float = Field(0.1, ge=0, lt=1)
    language_everywhere: bool = False
    embedding_width: int | None = Field(None, ge=1, le=MAX_WIDTH)


class DurationConfig(Config):
    """Sizes of the duration predictor.

    Attributes:
        channels: width of its convolutions.
        layers: number of them.
        kernel: tokens (of pitch: frames) that each sees; odd.
        dropout: share of activations dropped in training.
    """

    channels: int = Field(192, ge=1, le=MAX_WIDTH)
    layers: int = Field(2, ge=1, le=MAX_LAYERS)
    kernel: OddKernel = 3
    dropout: float = Field(0.2, ge=0, lt=1)


class DecoderConfig(Config):
    """Sizes of the mel decoder.

    Attributes:
        channels: width of the blocks.
        blocks: number of them.
        kernel: frames that each sees; odd.
        dropout: share of activations dropped in training.
    """

    channels: int = Field(192, ge=1, le=MAX_WIDTH)
    blocks: int = Field(6, ge=1, le=MAX_LAYERS)
    kernel: OddKernel = 5
    dropout: float = Field(0.1, ge=0, lt=1)


class PitchConfig(DurationConfig):
    """Sizes of the pitch predictor, of a model whose decoder is shown the pitch."""

    channels: int = Field(128, ge=1, le=MAX_WIDTH)
    kernel: OddKernel = 5
    dropout: float = Field(0.1, ge=0, lt=1)


def _freeze_index(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if (isinstance(value, float) and 0 < value < 1) or value in ("n_base", "n_vocab"):
        return value
    raise ValueError(
        "must be a number of rows, a share of the base's rows between 0 and 1, n_base or n_vocab"
    )


FreezeIndex = Annotated[int | float | Literal["n_base", "n_vocab"], BeforeValidator(_freeze_index)]


class FreezeBlocks(Config):
    """Blocks that training leaves as they are, by number from 0.

    Attributes:
        encoder, decoder: of the encoder's layers and of the decoder's blocks.
    """

    encoder: tuple[int, ...] = ()
    decoder: tuple[int, ...] = ()


class ModelConfig(Config):
    """Sizes of T3; the vocabulary's size comes from the tokenizer, the mel's from its spec.

    Attributes:
        width: channels of a token's vector; a multiple of 2 and of the encoder's heads.
        states_per_token: spans that a token is made of, such as consonant and vowel.
        pitch: sizes of the pitch predictor; None: the decoder is not shown the pitch, as in
            models of before.
        postfilter: exponent of the gains that put back what a prediction loses of changes over
            time; 0: none, as in models of before.
        freeze_until_index: embedding rows that training leaves as they are: those below this
            id, those below this share of the base's (0 to 1), those of the base (``n_base``) or
            all (``n_vocab``). What a frozen token takes from its factors is frozen with it, and
            with a base's rows (``n_base``, ``n_vocab``) those of its speakers.
        freeze_blocks: blocks that training leaves as they are.
    """

    width: int = Field(192, ge=2, le=MAX_WIDTH)
    states_per_token: int = Field(2, ge=1, le=100)
    encoder: EncoderConfig = EncoderConfig()
    duration: DurationConfig = DurationConfig()
    decoder: DecoderConfig = DecoderConfig()
    pitch: PitchConfig | None = None
    postfilter: float = Field(0.0, ge=0, le=2)
    freeze_until_index: FreezeIndex = 0
    freeze_blocks: FreezeBlocks = FreezeBlocks()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.width % 2 or self.width % self.encoder.heads:
            raise ValueError(
                f"width ({self.width}) must be a multiple of 2 and of encoder.heads "
                f"({self.encoder.heads})"
            )
        if self.encoder.embedding_width == self.width:
            raise ValueError(
                f"encoder.embedding_width ({self.width}) has no effect, it is the width; "
                f"leave it out"
            )
        for name, frozen, n in (
            ("encoder", self.freeze_blocks.encoder, self.encoder.layers),
            ("decoder", self.freeze_blocks.decoder, self.decoder.blocks),
        ):
            if absent := [block for block in frozen if not 0 <= block < n]:
                raise ValueError(
                    f"freeze_blocks.{name}: there is no block {absent[0]}; allowed: 0 to {n - 1}"
                )
        return self


class LossConfig(Config):
    """Weights of the parts of the loss.

    Attributes:
        mel_l1: of the mean absolute error, added to the mean squared error.
        duration: of the duration part.
        prior: of the part that draws a state's expected mel to its frames.
        pitch: of the pitch part, if the model predicts pitch.
    """

    mel_l1: float = Field(1.0, ge=0)
    duration: float = Field(0.1, ge=0)
    prior: float = Field(0.5, ge=0)
    pitch: float = Field(0.3, ge=0)

"""Which speech tokens a corpus is turned into."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dimts.core.config import Config


class S3Tokens(Config):
    """The tokens of S3Tokenizer v2 and the voice encoder, by the weights of the published model.

    Attributes:
        model: folder of the published model: ``s3gen.safetensors`` or ``s3gen.pt``, and
            ``ve.safetensors`` or ``ve.pt``.
        gpus: share of a GPU that each actor takes, where a cluster has any.
    """

    kind: Literal["s3"] = "s3"
    model: Path
    gpus: float = Field(0.25, ge=0, le=1)


class RandomProjectionTokens(Config):
    """Tokens of a quantiser that nobody trained, where S3's weights cannot be had.

    As many a second as S3's, and ids within its range; nothing else about them is S3's, and no
    published model understands them.

    Attributes:
        digits: ternary digits of a token: there are ``3 ** digits`` of them.
        seed: of the projection.
    """

    kind: Literal["random_projection"] = "random_projection"
    digits: int = Field(8, ge=1, le=8)
    seed: int = Field(0, ge=0)


TokensConfig = Annotated[S3Tokens | RandomProjectionTokens, Field(discriminator="kind")]

"""Sizes of the vocoder; who only reads settings need not wait for torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dimts.core.config import MAX_LAYERS, MAX_WIDTH, Config, OddKernel


class GeneratorConfig(Config):
    """Sizes of the net that shapes the excitation.

    Attributes:
        channels: width of its blocks.
        hidden: channels inside a block.
        blocks: number of them.
        kernel: frames that each sees; odd.
    """

    channels: int = Field(192, ge=1, le=MAX_WIDTH)
    hidden: int = Field(512, ge=1, le=MAX_WIDTH)
    blocks: int = Field(6, ge=1, le=MAX_LAYERS)
    kernel: OddKernel = 7


class PitchNetConfig(GeneratorConfig):
    """Sizes of the net that reads F0 off a mel.

    Attributes:
        classes: log-spaced values of F0 between `f_min` and `f_max`.
        f_min, f_max: Hz.
    """

    channels: int = Field(96, ge=1, le=MAX_WIDTH)
    hidden: int = Field(288, ge=1, le=MAX_WIDTH)
    blocks: int = Field(4, ge=1, le=MAX_LAYERS)
    classes: int = Field(192, ge=8, le=4096)
    f_min: float = Field(60.0, gt=0)
    f_max: float = Field(520.0, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min:g} must be below f_max {self.f_max:g}")
        return self


class ModelConfig(Config):
    """Sizes of the vocoder; those of its STFT follow from the mel.

    Attributes:
        pitch: of the pitch net.
        generator: of what shapes pulses and noise.
        freeze: parts that training leaves as they are.
    """

    pitch: PitchNetConfig = PitchNetConfig()
    generator: GeneratorConfig = GeneratorConfig()
    freeze: tuple[Literal["pitch", "generator"], ...] = ()

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if "generator" in self.freeze:
            raise ValueError("freeze: without the generator there is nothing to train")
        return self


class DiscriminatorConfig(Config):
    """Sizes of the discriminators, one for each resolution.

    Attributes:
        windows: samples of the STFTs whose magnitudes are judged.
        channels: of the first half of the convolutions; the second half has twice as many.
        layers: of them, before the last one.
        frames: hops of the generator's mel that a judged piece has.
    """

    windows: tuple[int, ...] = Field((512, 1024, 2048), min_length=1)
    channels: int = Field(16, ge=1, le=MAX_WIDTH)
    layers: int = Field(4, ge=1, le=MAX_LAYERS)
    frames: int = Field(28, ge=4)

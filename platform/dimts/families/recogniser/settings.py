"""What a person writes for a recogniser, and what its training is given."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.audio.mel import MelConfig
from dimts.core.config import MAX_LAYERS, MAX_WIDTH, Config
from dimts.families.acoustic.settings import Source
from dimts.families.protocol import BaseSection, Sections
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.text.normaliser import TextConfig
from dimts.training.config import OptimizerConfig, RunSettings, TrainingConfig


class ModelConfig(Config):
    """Sizes of the net.

    Attributes:
        width, hidden: channels of a block and between its layers.
        blocks: how many; each hears `kernel` steps of two frames.
        kernel: odd.
        dropout: of what a block adds.
        freeze: blocks that training leaves as they are.
    """

    width: int = Field(192, ge=2, le=MAX_WIDTH)
    hidden: int = Field(384, ge=2, le=MAX_WIDTH)
    blocks: int = Field(8, ge=1, le=MAX_LAYERS)
    kernel: int = Field(11, ge=1, le=101)
    dropout: float = Field(0.1, ge=0, lt=1)
    freeze: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel ({self.kernel}) must be odd")
        if absent := [block for block in self.freeze if not 0 <= block < self.blocks]:
            raise ValueError(
                f"freeze: there is no block {absent[0]}; allowed: 0 to {self.blocks - 1}"
            )
        return self


class RecogniserTraining(TrainingConfig):
    """The loop.

    Attributes:
        masks: stretches of time, and bands of the mel, that are hidden in each utterance.
        mask_frames, mask_bins: their length at most; of time also a tenth of the utterance.
    """

    masks: int = Field(2, ge=0, le=20)
    mask_frames: int = Field(30, ge=0)
    mask_bins: int = Field(12, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, warmup_steps=100)


class RecogniserSections(Sections):
    """Corpus, features, model and training of one recogniser; features of a voice will do."""

    corpus: CorpusConfig
    text: TextConfig
    mel: MelConfig = MelConfig()
    prepare: PrepareConfig
    model: ModelConfig = ModelConfig()
    training: RecogniserTraining = RecogniserTraining()

    @property
    def source(self) -> Source:
        """What is learned from, for processes that stand elsewhere."""
        return Source.of(self.corpus, self.text, self.prepare.features)


class RecogniserSettings(RunSettings):
    """One training of a recogniser.

    Attributes:
        source: features, and what their texts were normalised with.
        mel: what they must have been made with.
        base: the recogniser to start from; None starts from nothing.
    """

    family: str = "recogniser"
    source: Source
    mel: MelConfig
    model: ModelConfig
    training: RecogniserTraining
    base: BaseSection | None = None

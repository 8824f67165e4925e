"""What the acoustic family adds to the settings of the training loop."""

from __future__ import annotations

from pydantic import Field

from dimts.core.config import Config
from dimts.families.acoustic.model.config import LossConfig
from dimts.training.config import TrainingConfig


class AlignerConfig(Config):
    """How the alignment is learned.

    Attributes:
        fixed_share: share of the steps trained on the durations of the flat-start aligner;
            after it, durations come from monotonic alignment search with the model's own
            state means. 1 never searches; 0 searches from the first step.
        iterations: rounds of Viterbi training of the flat-start aligner.
        prior_frames: weight of what a rare token borrows from its consonant and vowel.
    """

    fixed_share: float = Field(0.25, ge=0, le=1)
    iterations: int = Field(12, ge=1)
    prior_frames: float = Field(20.0, gt=0)


class AcousticTrainingConfig(TrainingConfig):
    """The loop, the alignment and the loss.

    Attributes:
        max_utterances: of each training split that are used, always the same ones; 0: all.
        sample_texts: sentences spoken every `sample_every` steps.
        aligner: how the alignment is learned.
        loss: weights of its parts.
    """

    max_utterances: int = Field(0, ge=0)
    sample_texts: tuple[str, ...] = ()
    aligner: AlignerConfig = AlignerConfig()
    loss: LossConfig = LossConfig()

"""What the vocoder family adds to the settings of the training loop."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dimts.core.config import Config
from dimts.families.vocoder.model.config import DiscriminatorConfig
from dimts.training.config import OptimizerConfig, TrainingConfig


class LossConfig(Config):
    """Weights of what the generator minimises.

    Attributes:
        stft: of the distance of magnitudes at several resolutions, without discriminators.
        stft_beside_discriminators: of the same once there are discriminators, which say more.
        mel: of the mean absolute error of the log mel.
        pitch: of what the pitch net is told by the tracker's F0.
        adversarial: of what the discriminators think.
        features: of the distance of what they see.
    """

    stft: float = Field(2.5, ge=0)
    stft_beside_discriminators: float = Field(1.0, ge=0)
    mel: float = Field(5.0, ge=0)
    pitch: float = Field(0.5, ge=0)
    adversarial: float = Field(0.5, ge=0)
    features: float = Field(2.0, ge=0)


class DiscriminatorTraining(Config):
    """When and how discriminators are trained.

    Attributes:
        start_step: from which on they are, and the generator hears of them.
        model: their sizes.
        optimizer: their own.
    """

    start_step: int = Field(1500, ge=0)
    model: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=50, betas=(0.8, 0.99), clip_norm=10.0
    )


class VocoderTrainingConfig(TrainingConfig):
    """The loop, the losses and the discriminators.

    Attributes:
        crop_frames: frames of the mel in each utterance's crop.
        validation_frames: likewise in validation.
        gain: nepers by which a crop is made louder at least and at most; less is softer.
        resample: factors, least and most, by which a resampled crop is played faster: its pitch and
            formants move together, as those of another speaker.
        resampled_share: of crops that are.
        own_pitch_share: of crops whose excitation follows the pitch net, not the tracker.
        own_pitch_from: step from which on.
        voice: bundle or run of an acoustic voice, whose mels of the corpus, laid out as the
            recordings are, are learned as well: a vocoder then knows how that voice blurs.
        predicted_share: of crops that have the voice's mel.
        loss: weights of its parts.
        discriminator: when and how discriminators are trained.
    """

    crop_frames: int = Field(40, ge=8)
    validation_frames: int = Field(128, ge=8)
    gain: tuple[float, float] = (-1.2, 0.35)
    resample: tuple[float, float] = (0.8, 1.25)
    resampled_share: float = Field(0.0, ge=0, le=1)
    own_pitch_share: float = Field(0.5, ge=0, le=1)
    own_pitch_from: int = Field(500, ge=0)
    voice: str | None = Field(None, min_length=1)
    predicted_share: float = Field(0.5, gt=0, le=1)
    loss: LossConfig = LossConfig()
    discriminator: DiscriminatorTraining = DiscriminatorTraining()
    batch_size: int = Field(6, ge=1)
    ema_decay: float = Field(0.997, ge=0, lt=1)
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1.5e-3, warmup_steps=100, betas=(0.8, 0.99), clip_norm=10.0
    )

    @model_validator(mode="after")
    def _resample_is_a_range(self) -> Self:
        slowest, fastest = self.resample
        if not 0.5 <= slowest <= fastest <= 2:
            raise ValueError(f"resample {slowest:g} to {fastest:g}: must rise, from 0.5 to 2")
        return self

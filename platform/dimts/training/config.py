"""Settings of the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dimts.core.config import Config

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a cosine to zero.

    Attributes:
        learning_rate: at the top.
        warmup_steps: steps up to it.
        final_share: share of the learning rate that is left at the last step.
        betas: of the moments.
        weight_decay: of matrices; norms and biases have none.
        embedding_decay: of embeddings.
        clip_norm: largest norm of the gradient.
    """

    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(50, ge=0)
    final_share: float = Field(0.01, ge=0, le=1)
    betas: tuple[Share, Share] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    embedding_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)


class TrainingConfig(Config):
    """The loop.

    Attributes:
        max_steps: optimizer steps in all.
        batch_size: utterances a step, over all workers and micro-batches together.
        batch_budget: frames, tokens or samples (what the family counts) of a step at most, padding
            included, instead of a number of utterances; 0 counts utterances.
        accumulate: micro-batches a worker's share of the batch is cut into.
        amp: precision of matrix products and convolutions: bf16, fp16 (with a gradient scaler;
            CUDA), tf32 (CUDA), or off, which is float32; auto takes what the device that begins
            the run computes fast.
        ema_decay: of the moving average of the weights that is validated and shipped; 0 is off.
        seed: of initial weights, shuffling and dropout.
        threads: of torch on the CPU in each worker; 0 takes as many of its cores as make a step
            faster, found out before the first one.
        log_every, validate_every, sample_every, checkpoint_every: in steps; 0 is never.
        keep_checkpoints: latest ones that stay, beside the best.
        patience: validations without a better loss before the run stops, counted once all of it is
            trained, a discriminator for instance; 0 is never.
        max_bad_steps: steps in a row with a loss that is not finite before the run stops.
    """

    max_steps: int = Field(2000, ge=1)
    batch_size: int = Field(8, ge=1)
    batch_budget: int = Field(0, ge=0)
    accumulate: int = Field(1, ge=1)
    amp: Literal["auto", "off", "tf32", "bf16", "fp16"] = "auto"
    ema_decay: float = Field(0.0, ge=0, lt=1)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    threads: int = Field(0, ge=0)
    log_every: int = Field(20, ge=1)
    validate_every: int = Field(250, ge=0)
    sample_every: int = Field(500, ge=0)
    checkpoint_every: int = Field(500, ge=0)
    keep_checkpoints: int = Field(2, ge=1)
    patience: int = Field(0, ge=0)
    max_bad_steps: int = Field(10, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()

    @field_validator("amp", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML reads a bare ``off`` as false."""
        return "off" if value is False else value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.patience and not self.validate_every:
            raise ValueError("patience has no effect while validate_every is 0")
        if self.accumulate > self.batch_size and not self.batch_budget:
            raise ValueError(
                f"accumulate ({self.accumulate}) must not exceed batch_size ({self.batch_size})"
            )
        return self


class RunSettings(Config):
    """What a training process needs to know, the same on every worker; a family adds what it trains
    on what.

    Attributes:
        family: name of the model family.
        run_dir: folder of the run: checkpoints, event log, plots.
        training: the loop.
        config_yaml: the resolved configuration, for the bundle.
    """

    family: str
    run_dir: Path
    training: TrainingConfig
    config_yaml: str

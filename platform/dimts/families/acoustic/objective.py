"""The acoustic family's only objective: the model laid out by an alignment, and its loss."""

from __future__ import annotations

import math

from torch import nn

from dimts.families.acoustic.dataset import AcousticBatch
from dimts.families.acoustic.model.loss import tts_loss
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.training_config import AcousticTrainingConfig
from dimts.training.precision import autocast
from dimts.training.task import Losses, Moment


class AcousticObjective(nn.Module):
    """The loss of a batch.

    In the first `aligner.fixed_share` of the planned steps it is laid out by the durations of the
    flat-start aligner where the batch has them, later by a search with the model's own means.
    """

    def __init__(self, model: T3, config: AcousticTrainingConfig):
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: AcousticBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's losses; see `dimts.training.task.Objective`."""
        mel_BTM = self.model.normalise(batch.mel_BTM)
        fixed_steps = math.ceil(self.config.aligner.fixed_share * moment.planned_steps)
        with autocast(mel_BTM.device, self.config.amp):
            output = self.model(
                batch.tokens_BN,
                batch.n_tokens_B,
                mel_BTM,
                batch.n_frames_B,
                batch.durations_BNS if moment.step < fixed_steps else None,
                f0_BT=batch.f0_BT,
            )
        z_BT = None
        if self.model.source is not None and batch.f0_BT is not None:
            z_BT = self.model.source.normalise(batch.f0_BT)
        loss = tts_loss(
            output,
            mel_BTM,
            self.model.mel_std_M,
            self.config.loss,
            n_frames=batch.size,
            n_tokens=batch.n_tokens,
            z_BT=z_BT,
        )
        losses = {
            "total_loss": loss.total,
            "mel_loss": loss.mel,
            "duration_loss": loss.duration,
            "prior_loss": loss.prior,
            "mel_mse": loss.mel_mse,
        }
        return losses | ({} if z_BT is None else {"pitch_loss": loss.pitch})

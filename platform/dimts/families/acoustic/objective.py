"""The objectives of the acoustic family: the voice's, and that of what tells its mels apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.adversarial import MelDiscriminator, crops
from dimts.families.acoustic.dataset import AcousticBatch
from dimts.families.acoustic.model.config import LossConfig
from dimts.families.acoustic.model.durations import look_up
from dimts.families.acoustic.model.t3 import T3, T3Output
from dimts.families.acoustic.settings import AcousticTrainingConfig
from dimts.training.adversarial import hinge
from dimts.training.precision import autocast
from dimts.training.task import Losses, Moment


class AcousticObjective(nn.Module):
    """The loss of a batch.

    In the first `aligner.fixed_share` of the planned steps it is laid out by the durations of the
    flat-start aligner where the batch has them, later by a search with the model's own means.
    """

    def __init__(
        self, model: T3, config: AcousticTrainingConfig,
        discriminator: MelDiscriminator | None = None,
    ):  # fmt: skip
        super().__init__()
        self.model = model
        self.config = config
        self._discriminators = [discriminator] if discriminator else []  # not registered

    def output(self, batch: AcousticBatch, moment: Moment) -> tuple[T3Output, Tensor]:
        """What the model makes of a batch, and the normalised mel that it should have made."""
        mel_BTM = self.model.normalise(batch.mel_BTM)
        fixed_steps = math.ceil(self.config.aligner.fixed_share * moment.planned_steps)
        with autocast(mel_BTM.device, self.config.amp):
            output: T3Output = self.model(
                batch.tokens_BN,
                batch.n_tokens_B,
                mel_BTM,
                batch.n_frames_B,
                batch.durations_BNS if moment.step < fixed_steps else None,
                f0_BT=batch.f0_BT,
                speakers_B=batch.speakers_B,
            )
        return output, mel_BTM

    def forward(self, batch: AcousticBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's losses; see `dimts.training.task.Objective`."""
        output, mel_BTM = self.output(batch, moment)
        std_M, config = self.model.mel_std_M, self.config.loss
        losses = tts_loss(output, mel_BTM, std_M, config, batch.size, batch.n_tokens)
        if self.model.source is not None and batch.f0_BT is not None:
            z_BT = self.model.source.normalise(batch.f0_BT, batch.speakers_B)
            pitch = pitch_loss(output, z_BT) / batch.size
            losses["total_loss"] = losses["total_loss"] + config.pitch * pitch
            losses["pitch_loss"] = pitch
        for discriminator in self._discriminators if self.training else ():
            own = discriminator.config
            if moment.step >= self.config.adversarial_start:
                pieces = crops((output.mel_BTM, mel_BTM), batch.n_frames_B, own.frames)
                with autocast(mel_BTM.device, self.config.amp):
                    fooled, features = discriminator.opinion(*pieces)
                share = batch.n_frames_B.sum() / batch.size
                heard = (own.weight * fooled + own.features * features) * share
                losses["total_loss"] = losses["total_loss"] + heard
                losses |= {"adversarial_loss": fooled * share, "feature_loss": features * share}
        return losses


class DiscriminatorObjective(nn.Module):
    """Recorded and predicted mels told apart.

    Args:
        discriminator: is trained.
        voice: what predicts.
    """

    def __init__(self, discriminator: MelDiscriminator, voice: AcousticObjective):
        super().__init__()
        self.discriminator = discriminator
        self._voice = [voice]  # in a list torch does not register it

    def forward(self, batch: AcousticBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's loss; see `dimts.training.task.Objective`."""
        (voice,) = self._voice
        with torch.no_grad():
            output, mel_BTM = voice.output(batch, moment)
            frames = self.discriminator.config.frames
            pieces = crops((mel_BTM, output.mel_BTM), batch.n_frames_B, frames)
        with autocast(mel_BTM.device, voice.config.amp):
            (recorded, _), (made, _) = (self.discriminator.judge(piece) for piece in pieces)
            loss = hinge([recorded], [made]).mean()
        return {"discriminator_loss": loss * batch.n_frames_B.sum() / batch.size}


def tts_loss(
    output: T3Output,
    mel_BTM: Tensor,
    mel_std_M: Tensor,
    config: LossConfig,
    n_frames: float,
    n_tokens: float,
) -> Losses:
    """The loss of a batch: mel plus duration, and the prior that the alignment is searched with.

    Args:
        output: the model's, laid out by the alignment of `mel_BTM`.
        mel_BTM: normalised log-mel, recorded.
        mel_std_M: standard deviation of the training frames, to report in natural-log units.
        config: weights.
        n_frames, n_tokens: what to divide by: those of the whole batch.

    Returns:
        total_loss: mel + weighted duration + weighted prior; what is minimised.
        mel_loss: error of the normalised log-mel, squared plus weighted absolute.
        duration_loss: Poisson deviance a state between predicted and aligned frames.
        prior_loss: squared error between a state's expected mel and its frames.
        mel_mse: squared error in natural-log-mel units squared, not trained on.
    """
    mask_BT1 = output.valid_BT[..., None]
    error_BTM = (output.mel_BTM - mel_BTM) * mask_BT1
    values = n_frames * mel_BTM.shape[-1]
    mel = (error_BTM.square().sum() + config.mel_l1 * error_BTM.abs().sum()) / values
    expected_BTM = look_up(output.means_BNSM.flatten(1, 2), output.state_BT)
    prior = ((expected_BTM - mel_BTM) * mask_BT1).square().sum() / values
    duration = _poisson_deviance(output) / n_tokens
    return {
        "total_loss": mel + config.duration * duration + config.prior * prior,
        "mel_loss": mel,
        "duration_loss": duration,
        "prior_loss": prior,
        "mel_mse": (error_BTM.detach() * mel_std_M).square().sum() / values,
    }


def pitch_loss(output: T3Output, z_BT: Tensor) -> Tensor:
    """Squared error of log F0 where voiced plus cross-entropy of voicing, summed over frames.

    Args:
        output: the model's; its decoder was shown the recorded F0.
        z_BT: that F0, z-scored logarithm.
    """
    assert output.pitch is not None and output.f0_BT is not None
    voiced_BT = (output.f0_BT > 0).float()
    error_BT = (output.pitch.z_BT - z_BT).square() * voiced_BT
    voicing_BT = F.binary_cross_entropy_with_logits(
        output.pitch.voicing_BT, voiced_BT, reduction="none"
    )
    return ((error_BT + voicing_BT) * output.valid_BT).sum()


def _poisson_deviance(output: T3Output) -> Tensor:
    """Summed over states. Its minimum is the expected duration, so lengths have no bias;
    the squared error of a logarithm would predict the shorter geometric mean."""
    target = output.durations_BNS.float()
    predicted_log = output.log_durations_BNS
    deviance = predicted_log.exp() - target * predicted_log
    deviance = deviance - target + torch.xlogy(target, target)
    return (deviance * output.valid_BN[..., None]).sum()

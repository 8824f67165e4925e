"""TTSLoss: mel plus duration, and the prior that the alignment is searched with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dimts.families.acoustic.model.config import LossConfig
from dimts.families.acoustic.model.durations import look_up
from dimts.families.acoustic.model.t3 import T3Output


class TTSLoss(NamedTuple):
    """Parts of the loss, scalars; `total` is what is minimised.

    Attributes:
        total: mel + weighted duration + weighted prior.
        mel: error of the normalised log-mel, squared plus weighted absolute.
        duration: Poisson deviance a state between predicted and aligned frames.
        prior: squared error between a state's expected mel and its frames.
        mel_mse: squared error in natural-log-mel units squared, not trained on.
        pitch: squared error of z-scored log F0 where voiced, plus cross-entropy of voicing; 0 if
            the model predicts none.
    """

    total: Tensor
    mel: Tensor
    duration: Tensor
    prior: Tensor
    mel_mse: Tensor
    pitch: Tensor


def tts_loss(
    output: T3Output,
    mel_BTM: Tensor,
    mel_std_M: Tensor,
    config: LossConfig,
    n_frames: float | None = None,
    n_tokens: float | None = None,
    z_BT: Tensor | None = None,
) -> TTSLoss:
    """The loss of a batch.

    Args:
        output: the model's, laid out by the alignment of `mel_BTM`.
        mel_BTM: normalised log-mel, recorded.
        mel_std_M: standard deviation of the training frames, to report in natural-log units.
        config: weights.
        n_frames, n_tokens: what to divide by; the batch's own counts if None. With several
            workers, those of the whole batch divided by the number of workers.
        z_BT: recorded log F0, z-scored, 0 where unvoiced, if the model predicts pitch.
    """
    mask_BT1 = output.valid_BT[..., None]
    n_bins = mel_BTM.shape[-1]
    if n_frames is None:
        n_frames = float(mask_BT1.sum())
    if n_tokens is None:
        n_tokens = float(output.valid_BN.sum())
    error_BTM = (output.mel_BTM - mel_BTM) * mask_BT1
    values = n_frames * n_bins
    mel = (error_BTM.square().sum() + config.mel_l1 * error_BTM.abs().sum()) / values
    prior = _prior(output, mel_BTM, mask_BT1) / values
    duration = _poisson_deviance(output) / n_tokens
    pitch = mel.new_zeros(()) if z_BT is None else _pitch(output, z_BT) / n_frames
    return TTSLoss(
        total=mel + config.duration * duration + config.prior * prior + config.pitch * pitch,
        mel=mel,
        duration=duration,
        prior=prior,
        mel_mse=(error_BTM.detach() * mel_std_M).square().sum() / values,
        pitch=pitch,
    )


def _poisson_deviance(output: T3Output) -> Tensor:
    """Summed over states. Its minimum is the expected duration, so lengths have no bias;
    the squared error of a logarithm would predict the shorter geometric mean."""
    target = output.durations_BNS.float()
    predicted_log = output.log_durations_BNS
    deviance = predicted_log.exp() - target * predicted_log
    deviance = deviance - target + torch.xlogy(target, target)
    return (deviance * output.valid_BN[..., None]).sum()


def _prior(output: T3Output, mel_BTM: Tensor, mask_BT1: Tensor) -> Tensor:
    expected_BTM = look_up(output.means_BNSM.flatten(1, 2), output.state_BT)
    return ((expected_BTM - mel_BTM) * mask_BT1).square().sum()


def _pitch(output: T3Output, z_BT: Tensor) -> Tensor:
    assert output.pitch is not None and output.f0_BT is not None
    voiced_BT = (output.f0_BT > 0).float()
    error_BT = (output.pitch.z_BT - z_BT).square() * voiced_BT
    voicing_BT = F.binary_cross_entropy_with_logits(
        output.pitch.voicing_BT, voiced_BT, reduction="none"
    )
    return ((error_BT + voicing_BT) * output.valid_BT).sum()

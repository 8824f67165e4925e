"""F0 and voicing of each frame, read off its mel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.vocoder.model.config import PitchNetConfig
from dimts.families.vocoder.model.convnext import Block, FrameWindows

FIRST_KERNEL = 5
LABEL_STD = 1.0
"""Classes over which the target of a frame is spread."""
REACH = 2
"""Classes on each side of the likeliest one over which F0 is averaged."""


class Pitch(NamedTuple):
    """F0 of each frame.

    Attributes:
        f0_BT: Hz, positive also where nothing is voiced.
        voiced_BT: 1 where it is, else 0.
    """

    f0_BT: Tensor
    voiced_BT: Tensor


class PitchLoss(NamedTuple):
    """Of each utterance, [B].

    Attributes:
        value_B: cross entropy of classes over voiced frames, and of voicing.
        wrong_B: share of voiced frames with an F0 that is off by more than a fifth.
    """

    value_B: Tensor
    wrong_B: Tensor


class PitchNet(nn.Module):
    """Classes of log F0, and whether a frame is voiced."""

    log_f0_C: Tensor

    def __init__(self, config: PitchNetConfig, n_mels: int):
        super().__init__()
        c = config
        self.first = FrameWindows(n_mels, c.channels, FIRST_KERNEL)
        scale = 1 / c.blocks
        self.blocks = nn.Sequential(
            *(Block(c.channels, c.hidden, c.kernel, scale) for _ in range(c.blocks))
        )
        self.last = nn.Linear(c.channels, c.classes + 1)
        # For the meta device torch would import sympy, which takes longer than to load the net.
        log_f0_C = torch.linspace(math.log(c.f_min), math.log(c.f_max), c.classes, device="cpu")
        self.register_buffer("log_f0_C", log_f0_C, persistent=False)

    def forward(self, mel_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the classes, [B, T, C], and of being voiced, [B, T], of a normalised mel."""
        x_BTD = self.blocks(self.first(mel_BTM).float())
        scores = self.last(F.layer_norm(x_BTD, x_BTD.shape[-1:])).float()
        return scores[..., :-1], scores[..., -1]

    def pitch(self, scores_BTC: Tensor, voicing_BT: Tensor) -> Pitch:
        """F0 around the likeliest class."""
        c = len(self.log_f0_C)
        best_BT1 = scores_BTC.argmax(-1, keepdim=True).clamp(REACH, c - 1 - REACH)
        near = best_BT1 + torch.arange(-REACH, REACH + 1, device=best_BT1.device)
        weight = scores_BTC.gather(-1, near).softmax(-1)
        log_f0_BT = (weight * self.log_f0_C[near]).sum(-1)
        return Pitch(log_f0_BT.exp(), (voicing_BT > 0).float())

    def loss(self, scores_BTC: Tensor, voicing_BT: Tensor, target: Pitch) -> PitchLoss:
        """Against what a tracker has found."""
        width = self.log_f0_C[1] - self.log_f0_C[0]
        log_f0_BT = target.f0_BT.log()
        off_BTC = (log_f0_BT[..., None] - self.log_f0_C) / (LABEL_STD * width)
        label_BTC = (-0.5 * off_BTC.square()).softmax(-1)
        entropy_BT = -(label_BTC * scores_BTC.log_softmax(-1)).sum(-1)
        n_voiced_B = target.voiced_BT.sum(1).clamp_min(1)
        classes_B = (entropy_BT * target.voiced_BT).sum(1) / n_voiced_B
        voicing_B = F.binary_cross_entropy_with_logits(
            voicing_BT, target.voiced_BT, reduction="none"
        ).mean(1)
        with torch.no_grad():
            found = self.pitch(scores_BTC, voicing_BT).f0_BT.log()
            wrong_BT = ((found - log_f0_BT).abs() > math.log(1.2)).float() * target.voiced_BT
        return PitchLoss(classes_B + voicing_B, wrong_BT.sum(1) / n_voiced_B)

"""A decoder that does not blur: a discriminator tells its mels from recorded ones.

A decoder that minimises the error predicts means. Beside the error it is told by a discriminator
what recordings have that its mels lack (Yang et al. 2021, "GANSpeech").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimts.families.acoustic.settings import AdversarialConfig
from dimts.training.adversarial import SpectrumDiscriminator, adversarial, feature_matching


def crops(mels: tuple[Tensor, ...], n_frames_B: Tensor, frames: int) -> tuple[Tensor, ...]:
    """The same piece of each mel of an utterance, drawn anew for each utterance.

    Args:
        mels: [B, T, M].
        n_frames_B: of each utterance; the rest of a piece of a shorter one is zero.
        frames: of a piece; the batch's if it has fewer.
    """
    frames = min(frames, mels[0].shape[1])
    spare_B = (n_frames_B - frames).clamp_min(0)
    start_B = (torch.rand(len(spare_B), device=spare_B.device) * (spare_B + 1)).long()
    at_BT1 = (start_B[:, None] + torch.arange(frames, device=spare_B.device))[..., None]
    inside_BT1 = at_BT1 < n_frames_B[:, None, None]
    return tuple(mel.gather(1, at_BT1.expand(-1, -1, mel.shape[-1])) * inside_BT1 for mel in mels)


class MelDiscriminator(nn.Module):
    """A discriminator of pieces of normalised mels."""

    def __init__(self, config: AdversarialConfig):
        super().__init__()
        self.config = config
        self.judge = SpectrumDiscriminator(config.channels, config.layers)

    def opinion(self, made_BTM: Tensor, recorded_BTM: Tensor) -> tuple[Tensor, Tensor]:
        """How it is to be fooled, and how far apart are the features that it finds."""
        scores, features = self.judge(made_BTM)
        with torch.no_grad():
            _, recorded = self.judge(recorded_BTM)
        return adversarial([scores]).mean(), feature_matching([recorded], [features]).mean()

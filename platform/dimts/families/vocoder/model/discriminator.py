"""The vocoder's discriminators (Jang et al. 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from dimts.families.vocoder.model.config import DiscriminatorConfig
from dimts.training.adversarial import SpectrumDiscriminator

MEAN, STD = -1.5, 2.5
"""Of the log magnitudes of speech, about."""


class Discriminators(nn.Module):
    """One discriminator for each resolution."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.each = nn.ModuleList(
            SpectrumDiscriminator(config.channels, config.layers, MEAN, STD) for _ in config.windows
        )

    def forward(self, spectra: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Scores and features of each resolution's log magnitudes, [B, T, F]."""
        judged = [judge(s) for judge, s in zip(self.each, spectra, strict=True)]
        return [scores for scores, _ in judged], [features for _, features in judged]

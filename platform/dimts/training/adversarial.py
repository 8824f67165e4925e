"""What tells recorded speech from generated speech by its spectra, and the losses of both sides."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1


class SpectrumDiscriminator(nn.Module):
    """Convolutions over frequency and time of log magnitudes; knows which frequency it sees.

    Args:
        channels: of the first half of the convolutions; the second half has twice as many.
        layers: of them, before the last one.
        mean, std: of the log magnitudes, about.
    """

    def __init__(self, channels: int, layers: int, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        self.mean, self.std = mean, std
        sizes = [2, *(channels * (1 + (2 * n) // layers) for n in range(layers))]
        self.layers = nn.ModuleList(
            nn.Conv2d(
                d_in, d_out, (3, 5 if n else 9),
                stride=(1 + n % 2, 2), padding=(1, 2 if n else 4),
            )
            for n, (d_in, d_out) in enumerate(pairwise(sizes))
        )  # fmt: skip
        self.last = nn.Conv2d(sizes[-1], 1, 3, padding=1)
        # Channels last: a CPU computes convolutions of so few channels a quarter faster.
        self.to(memory_format=torch.channels_last)

    def forward(self, log_magnitude_BTF: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, high for what was recorded, and what each layer has found."""
        x = (log_magnitude_BTF - self.mean) / self.std
        frequency = torch.linspace(-1, 1, x.shape[-1], device=x.device).expand_as(x)
        x = torch.stack([x, frequency], 1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.last(x), features


def hinge(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Loss of the discriminators, of each utterance, [B] (Lim & Ye 2017)."""
    losses = [_mean(F.relu(1 - r)) + _mean(F.relu(1 + m)) for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean(0)


def adversarial(made: list[Tensor]) -> Tensor:
    """Loss of the generator, [B]: what it makes should be taken for recorded."""
    return torch.stack([_mean(-scores) for scores in made]).mean(0)


def feature_matching(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """How far the features of what is made are from those of the recording, [B], relative to the
    size of those (Kumar et al. 2019)."""
    losses = [
        _mean((m - r).abs()) / _mean(r.abs()).clamp_min(1e-4)
        for of_real, of_made in zip(real, made, strict=True)
        for r, m in zip(of_real, of_made, strict=True)
    ]
    return torch.stack(losses).mean(0)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1, dtype=torch.float32)

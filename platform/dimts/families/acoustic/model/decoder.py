"""Mel side of T3: convolution blocks over frames."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.model.config import DecoderConfig
from dimts.families.acoustic.model.convolution import Convolution


class DecoderBlock(nn.Module):
    """Norm, gated convolution (Dauphin et al. 2017), projection, residual."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        channels, kernel = config.channels, config.kernel
        self.norm = nn.LayerNorm(channels)
        self.gated = Convolution(channels, 2 * channels, kernel)
        self.out = Convolution(channels, channels, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
        """[B, T, D], [B, T, 1] -> [B, T, D]."""
        y_BDT = (self.norm(x_BTD) * mask_BT1).transpose(1, 2)
        y_BDT = self.out(self.dropout(F.glu(self.gated(y_BDT), dim=1)))
        return x_BTD + y_BDT.transpose(1, 2)


class MelDecoder(nn.Module):
    """One vector a frame -> one normalised log-mel frame."""

    def __init__(self, width: int, n_mels: int, config: DecoderConfig):
        super().__init__()
        self.into = nn.Linear(width, config.channels)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.channels)
        self.out = nn.Linear(config.channels, n_mels)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
        """[B, T, D], [B, T, 1] -> float32 [B, T, M]."""
        x_BTD = self.into(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_BT1)
        return self.out(self.norm(x_BTD)).float()

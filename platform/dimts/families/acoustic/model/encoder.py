"""Text side of T3: token embedding, positions, transformer encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.model.config import EncoderConfig
from dimts.families.acoustic.model.convolution import Convolution
from dimts.families.acoustic.model.embedding import TextEmbedding


def sinusoidal_positions(n: int, width: int, device: torch.device) -> Tensor:
    """[n, width]: the positional encoding of Vaswani et al. 2017, section 3.5."""
    position = torch.arange(n, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(
        torch.arange(0, width, 2, device=device, dtype=torch.float32)
        * (-math.log(10_000.0) / width)
    )
    return torch.cat((torch.sin(position * rate), torch.cos(position * rate)), dim=1)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention, then a feed-forward of two convolutions (FastSpeech)."""

    def __init__(self, width: int, config: EncoderConfig):
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.widen = Convolution(width, config.feed_forward, config.kernel)
        self.narrow = Convolution(config.feed_forward, width, config.kernel)

    def forward(self, x_BND: Tensor, valid_BN: Tensor) -> Tensor:
        """[B, N, D], bool [B, N] -> [B, N, D]."""
        b, n, d = x_BND.shape
        drop = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm_attention(x_BND))
        q, k, v = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=valid_BN[:, None, None, :], dropout_p=drop
        )
        x_BND = x_BND + F.dropout(
            self.out(attended.transpose(1, 2).reshape(b, n, d)), drop, self.training
        )
        y_BND = self.norm_feed_forward(x_BND) * valid_BN[..., None]
        y_BDN = F.gelu(self.widen(y_BND.transpose(1, 2))) * valid_BN[:, None]
        y_BND = self.narrow(F.dropout(y_BDN, drop, self.training)).transpose(1, 2)
        return x_BND + F.dropout(y_BND, drop, self.training)


class TextEncoder(nn.Module):
    """Token ids -> one vector a token that knows its surroundings."""

    def __init__(
        self,
        factors_VF: Tensor,
        factor_sizes: tuple[int, ...],
        width: int,
        config: EncoderConfig,
    ):
        super().__init__()
        self.embedding = TextEmbedding(factors_VF, factor_sizes, width, config.embedding_width)
        self.language_everywhere = config.language_everywhere
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BN: Tensor, valid_BN: Tensor) -> Tensor:
        """int64 [B, N], bool [B, N] -> [B, N, D], zero where not valid."""
        x_BND = self.embedding(tokens_BN)
        if self.language_everywhere:
            x_BND = x_BND + x_BND[:, :1]
        x_BND = x_BND + sinusoidal_positions(x_BND.shape[1], x_BND.shape[2], x_BND.device)
        x_BND = self.dropout(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, valid_BN)
        return self.norm(x_BND) * valid_BN[..., None]

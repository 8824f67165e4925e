"""What the T3 is told of a voice: 34 positions of speaker, prompt and emotion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimts.families.chatterbox.model.config import (
    N_LATENTS,
    PERCEIVER_HEADS,
    SPEAKER_WIDTH,
    T3Config,
)


class PerceiverAttention(nn.Module):
    """Attention of queries to what they look at, one LayerNorm for both."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v, self.proj_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_BLC: Tensor, seen_BPC: Tensor, mask_B11P: Tensor | None) -> Tensor:
        """Args: queries; what is seen; bool, true where it may be seen (None: everywhere)."""
        normed, seen = self.norm(x_BLC), self.norm(seen_BPC)
        query, key, value = (
            x.unflatten(-1, (PERCEIVER_HEADS, -1)).transpose(1, 2)
            for x in (self.to_q(normed), self.to_k(seen), self.to_v(seen))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, mask_B11P, dropout)
        return x_BLC + self.proj_out(mixed.transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    """32 vectors of a prompt of any length: one block looks at it, then at its own result."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        bound = (3 * 2 / (2 * N_LATENTS)) ** 0.5
        query_1LC = torch.empty(1, N_LATENTS, config.hidden).uniform_(-bound, bound)
        self.pre_attention_query = nn.Parameter(query_1LC)
        self.attn = PerceiverAttention(config.hidden, config.perceiver_dropout)

    def forward(self, prompt_BPC: Tensor, mask_BP: Tensor) -> Tensor:
        query_BLC = self.pre_attention_query.expand(len(prompt_BPC), -1, -1)
        seen_BLC = self.attn(query_BLC, prompt_BPC, mask_BP[:, None, None])
        return self.attn(seen_BLC, seen_BLC, None)


class Conditioning(nn.Module):
    """The positions before the text, [B, 34, C]."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.spkr_enc = nn.Linear(SPEAKER_WIDTH, config.hidden)
        self.emotion_adv_fc = nn.Linear(1, config.hidden, bias=False)
        self.perceiver = Perceiver(config)

    def forward(
        self, speaker_BE: Tensor, prompt_BPC: Tensor, mask_BP: Tensor, emotion_B: Tensor
    ) -> Tensor:
        """Args: voice encoder's vectors; embedded prompts; true where a prompt is; 0..1."""
        speaker_B1C = self.spkr_enc(speaker_BE)[:, None]
        latents_BLC = self.perceiver(prompt_BPC, mask_BP)
        emotion_B1C = self.emotion_adv_fc(emotion_B[:, None, None])
        return torch.cat((speaker_B1C, latents_BLC, emotion_B1C), dim=1)

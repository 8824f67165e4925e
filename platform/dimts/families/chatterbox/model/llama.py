"""The transformer of the T3: a Llama over embeddings, with its names of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimts.families.chatterbox.model.config import MAX_SPEECH, MAX_TEXT, N_CONDITION, T3Config
from dimts.families.chatterbox.model.rope import rotate, rotations

EPSILON = 1e-5
INIT_STD = 0.02
MAX_POSITIONS = N_CONDITION + MAX_TEXT + 2 + MAX_SPEECH + 4
UNUSED_ROWS = 8
"""Of an embedding that no input uses, but that stands in the published file."""


class Cache:
    """Keys and values of one block for the positions seen so far, [2, B, H, length, D].

    Attributes:
        used: positions that are filled.
    """

    def __init__(self, batch: int, heads: int, length: int, width: int, like: Tensor) -> None:
        self._values = like.new_empty(2, batch, heads, length, width)
        self.used = 0

    def extend(self, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return all keys and values."""
        end = self.used + key_BHTD.shape[2]
        self._values[0, :, :, self.used : end] = key_BHTD
        self._values[1, :, :, self.used : end] = value_BHTD
        self.used = end
        return self._values[0, :, :, :end], self._values[1, :, :, :end]


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.hidden, config.hidden, bias=False) for _ in range(4)
        )

    def forward(self, x_BTC: Tensor, rotations_2TD: Tensor, cache: Cache | None) -> Tensor:
        query, key, value = (
            project(x_BTC).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, rotations_2TD), rotate(key, rotations_2TD)
        value = value.to(key.dtype)
        # A mask is never needed: what is cached is followed by one position at a time.
        causal = cache is None or cache.used == 0
        assert causal or query.shape[2] == 1
        if cache is not None:
            key, value = cache.extend(key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Gated feed-forward with SiLU."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.up_proj = nn.Linear(config.hidden, config.feed_forward, bias=False)
        self.down_proj = nn.Linear(config.feed_forward, config.hidden, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden, EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden, EPSILON)

    def forward(self, x_BTC: Tensor, rotations_2TD: Tensor, cache: Cache | None = None) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), rotations_2TD, cache)
        return x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))


class Llama(nn.Module):
    """Blocks over embeddings [B, T, C], and the last normalisation.

    Attributes:
        checkpointing: compute each block again in the backward pass instead of keeping what it
            computed.
    """

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.embed_tokens = nn.Embedding(UNUSED_ROWS, config.hidden)
        self.embed_tokens.requires_grad_(False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, EPSILON)
        table = rotations(config.hidden // config.heads, MAX_POSITIONS)
        self.register_buffer("_rotations_2TD", table, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)

    def forward(self, x_BTC: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Hidden states [B, T, C]; with caches, of positions that follow what is cached."""
        start = caches[0].used if caches else 0
        rotations_2TD = self.rotations()[:, start : start + x_BTC.shape[1]]
        for number, block in enumerate(self.layers):
            if self.checkpointing and torch.is_grad_enabled():
                x_BTC = checkpoint(
                    block, x_BTC, rotations_2TD, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x_BTC = block(x_BTC, rotations_2TD, caches[number] if caches else None)
        return self.norm(x_BTC)

    def rotations(self) -> Tensor:
        """Cosines and sines of each position, [2, T, D]."""
        assert isinstance(self._rotations_2TD, Tensor)
        return self._rotations_2TD

    def new_caches(self, batch: int, length: int) -> list[Cache]:
        """Empty ones for `length` positions."""
        heads = self.config.heads
        width = self.config.hidden // heads
        weight = self.norm.weight
        return [Cache(batch, heads, length, width, weight) for _ in self.layers]

"""Rotary positions as Llama 3 scales them for long contexts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

THETA = 5e5
FACTOR, LOW, HIGH, ORIGINAL = 8.0, 1.0, 4.0, 8192


def rotations(width: int, length: int) -> Tensor:
    """Cosines and sines of positions 0..length - 1, float32 [2, length, width].

    Waves longer than ORIGINAL / LOW positions are stretched by FACTOR, those shorter than
    ORIGINAL / HIGH stay, those between are blended (Llama 3.1).

    Args:
        width: channels of an attention head.
        length: number of positions.
    """
    inverse_F = 1.0 / THETA ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    waves_F = 2 * math.pi / inverse_F
    blend_F = ((ORIGINAL / waves_F - LOW) / (HIGH - LOW)).clamp(0, 1)
    inverse_F = (1 - blend_F) * inverse_F / FACTOR + blend_F * inverse_F
    angles_TF = torch.arange(length, dtype=torch.float32)[:, None] * inverse_F
    angles_TD = torch.cat((angles_TF, angles_TF), dim=1)
    return torch.stack((angles_TD.cos(), angles_TD.sin()))


def rotate(x_BHTD: Tensor, rotations_2TD: Tensor) -> Tensor:
    """Turn each pair of channels (d, d + D / 2) by the angle of its position."""
    first, second = x_BHTD.chunk(2, dim=-1)
    turned_BHTD = torch.cat((-second, first), dim=-1)
    return x_BHTD * rotations_2TD[0] + turned_BHTD * rotations_2TD[1]

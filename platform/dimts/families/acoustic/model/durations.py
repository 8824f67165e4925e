"""From tokens to frames: the duration predictor and the length regulator."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.model.config import DurationConfig
from dimts.families.acoustic.model.convolution import Convolution

N_POSITION_FEATURES = 12


class Predictor(nn.Module):
    """Values of each place of a sequence, from what stands around it.

    Args:
        width: channels of the sequence.
        n_values: of each place.
        config: sizes.
    """

    def __init__(self, width: int, n_values: int, config: DurationConfig):
        super().__init__()
        sizes = [width] + [config.channels] * config.layers
        self.convolutions = nn.ModuleList(
            Convolution(a, b, config.kernel) for a, b in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[1:])
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(sizes[-1], n_values)

    def predict(self, x_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
        """[B, L, D], [B, L, 1] -> float32 [B, L, values]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BLD = convolution((x_BLD * mask_BL1).transpose(1, 2)).transpose(1, 2)
            x_BLD = self.dropout(norm(F.relu(x_BLD)))
        return self.out(x_BLD).float()


class DurationPredictor(Predictor):
    """Log of the expected frames in each state of a token, from the encoder's output."""

    def __init__(self, width: int, n_states: int, config: DurationConfig):
        super().__init__(width, n_states, config)
        nn.init.zeros_(self.out.weight)

    @torch.no_grad()
    def expect(self, frames_per_token: float) -> None:
        """Begin with every token as long as the corpus's mean, in equal states."""
        self.out.bias.fill_(math.log(frames_per_token / len(self.out.bias)))

    def forward(self, x_BND: Tensor, valid_BN: Tensor) -> Tensor:
        """[B, N, D], bool [B, N] -> float32 [B, N, S]."""
        return self.predict(x_BND, valid_BN[..., None])


def round_durations(durations_BNS: Tensor, valid_BN: Tensor) -> Tensor:
    """Expected frames -> whole frames, int64 [B, N, S], so that no length is lost or gained.

    The running total is rounded, not each duration: the sum stays within half a frame. A
    token that is valid is expected to last one frame at least.
    """
    b, n, s = durations_BNS.shape
    # Never 0, and lifted to a hair above 1, so that rounding leaves no token without a frame.
    durations_BNS = durations_BNS.double().clamp_min(1e-9) * valid_BN[..., None]
    total_BN = durations_BNS.sum(-1)
    lift_BN = torch.where(total_BN < 1, (1 + 1e-9) / total_BN.clamp_min(1e-9), 1.0)
    durations_BNS = durations_BNS * lift_BN[..., None]
    ends = durations_BNS.reshape(b, n * s).cumsum(1).add(0.5).floor().long()
    return torch.diff(ends, dim=1, prepend=ends.new_zeros(b, 1)).view(b, n, s)


def regulate(durations_BJ: Tensor, n_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which state each frame belongs to, without a loop.

    Args:
        durations_BJ: whole frames a state.
        n_frames: frames of the result; the longest sum of durations.

    Returns:
        index_BT: int64, the state of each frame; the last state where a row is over.
        offset_BT: float32, frames since the state began.
        length_BT: float32, frames of the state.
    """
    ends_BJ = durations_BJ.cumsum(1)
    frames_BT = torch.arange(n_frames, device=durations_BJ.device).expand(len(ends_BJ), -1)
    index_BT = torch.searchsorted(ends_BJ, frames_BT.contiguous(), right=True)
    index_BT = index_BT.clamp_max(durations_BJ.shape[1] - 1)
    length_BT = durations_BJ.gather(1, index_BT)
    start_BT = ends_BJ.gather(1, index_BT) - length_BT
    # Beyond the end of a row there is no state: stay inside the last one.
    offset_BT = torch.minimum(frames_BT - start_BT, (length_BT - 1).clamp_min(0))
    return index_BT, offset_BT.float(), length_BT.float()


def look_up(x_BJD: Tensor, index_BT: Tensor) -> Tensor:
    """The row of each frame's state or token, [B, T, D].

    As an embedding, whose gradient a GPU can add up in the same order each time; for that of
    `gather` it has no such way.
    """
    b, j, d = x_BJD.shape
    first_B = torch.arange(0, b * j, j, device=x_BJD.device)
    return F.embedding(index_BT + first_B[:, None], x_BJD.reshape(b * j, d))


def position_features(offset_BT: Tensor, length_BT: Tensor) -> Tensor:
    """Where a frame stands inside its span, [B, T, N_POSITION_FEATURES], all within [-1, 1]."""
    length = length_BT.clamp_min(1)
    share = (offset_BT + 0.5) / length
    remaining = length - 1 - offset_BT
    waves = [f(math.pi * k * share) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
    edges = [torch.exp(-x / r) for x in (offset_BT, remaining) for r in (1.5, 5.0)]
    return torch.stack([share, *waves, *edges, torch.log(length) / 5], dim=-1)

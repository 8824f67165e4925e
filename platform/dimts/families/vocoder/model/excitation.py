"""What the generator shapes: a train of pulses at F0, and noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dimts.families.vocoder.model.pitch_net import Pitch

PHASES_A_FRAME = 4
"""Points at which the generator is told the phase of the pulses."""
BAND = 0.98
"""Share of the band that harmonics fill."""
NEAR_ZERO = 1e-5


class Pulses(NamedTuple):
    """A pulse train of several utterances.

    Attributes:
        wave_BS: samples, of unit power where voiced; T frames of `hop` samples.
        phase_BTP: cosine and sine of the fundamental's phase at points of each frame, times
            voicing; P is twice their number.
    """

    wave_BS: Tensor
    phase_BTP: Tensor


@torch.no_grad()
def cycles_at_frames(pitch: Pitch, hop: int, sample_rate: int) -> Tensor:
    """Cycles of F0 since the beginning at each frame and at the end, float64 [B, T + 1]."""
    first_BT, last_BT = _slopes(pitch)
    step_BT = (first_BT.double() + last_BT.double()) * (0.5 * hop / sample_rate)
    return torch.nn.functional.pad(step_BT.cumsum(1), (1, 0))


@torch.no_grad()
def pulse_train(pitch: Pitch, cycles_BT: Tensor, hop: int, sample_rate: int) -> Pulses:
    """All harmonics of F0 with one amplitude, in closed form.

    The sum of cos(k x), k = 1 ... K, is sin((K + 1/2) x) / (2 sin(x / 2)) - 1/2. Between frames F0
    and voicing go in straight lines, so that the phase is a parabola; what has gone before is
    kept in cycles, in double precision.

    Args:
        pitch: of each frame, whose first sample is its centre in the mel.
        cycles_BT: float64, at each frame; see `cycles_at_frames`.
        hop: samples of a frame.
        sample_rate: Hz.
    """
    first_BT, last_BT = _slopes(pitch)
    at_S = torch.arange(hop, device=first_BT.device) / hop
    rise = (last_BT - first_BT)[..., None]
    start_BT = (cycles_BT % 1).to(first_BT.dtype)
    frame_s = hop / sample_rate
    cycles = start_BT[..., None] + frame_s * (first_BT[..., None] * at_S + rise * at_S**2 / 2)
    x = (cycles - cycles.round()) * (2 * math.pi)
    n_BT1 = (BAND * sample_rate / 2 / torch.maximum(first_BT, last_BT)).floor()
    n_BT1 = n_BT1.clamp_min(1)[..., None]
    half = (x / 2).sin_() * 2
    ratio = ((n_BT1 + 0.5) * x).sin_() / half
    ratio = torch.where(half.abs() < NEAR_ZERO, n_BT1 + 0.5, ratio)
    voiced = pitch.voiced_BT[..., None]
    after = torch.cat([voiced[:, 1:], voiced[:, -1:]], 1)
    amount = torch.lerp(voiced, after, at_S)
    wave = (ratio - 0.5) * ((2 / n_BT1).sqrt() * amount)
    points = x[..., :: hop // PHASES_A_FRAME][..., :PHASES_A_FRAME]
    phase = torch.cat([points.cos(), points.sin()], -1) * voiced
    return Pulses(wave.flatten(1), phase)


def _slopes(pitch: Pitch) -> tuple[Tensor, Tensor]:
    """F0 at the beginning and at the end of each frame, [B, T] both.

    Where only one of two frames is voiced the pulses keep its F0 as they fade.
    """
    f0_BT, voiced_BT = pitch
    next_BT = torch.cat([f0_BT[:, 1:], f0_BT[:, -1:]], 1)
    after_BT = torch.cat([voiced_BT[:, 1:], voiced_BT[:, -1:]], 1)
    first_BT = torch.where(voiced_BT < after_BT, next_BT, f0_BT)
    last_BT = torch.where(voiced_BT > after_BT, f0_BT, next_BT)
    return first_BT, last_BT

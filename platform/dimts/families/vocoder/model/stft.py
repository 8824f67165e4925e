"""Short-time spectra whose windows overlap by three quarters, and waves from them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

OVERLAP = 4
"""Windows over each sample."""


def spectrum(wave_BS: Tensor, window: Tensor) -> Tensor:
    """STFT, complex [B, S / step, F], of a length that is a multiple of the step.

    Frame k is centred on sample k * step, zeros beyond the ends.
    """
    n_fft = len(window)
    step = n_fft // OVERLAP
    padded = F.pad(wave_BS, (n_fft // 2, n_fft // 2 - step))
    return torch.fft.rfft(padded.unfold(1, n_fft, step) * window)


def magnitudes(wave_BS: Tensor, window: Tensor, floor: float) -> Tensor:
    """STFT magnitudes, [B, 1 + S / step, F], of at least `floor`, edges reflected."""
    n_fft = len(window)
    padded = F.pad(wave_BS[:, None], (n_fft // 2, n_fft // 2), mode="reflect")[:, 0]
    bins = torch.fft.rfft(padded.unfold(1, n_fft, n_fft // OVERLAP) * window)
    return (bins.real.square() + bins.imag.square() + floor**2).sqrt()


def overlap_add(bins_BKF: Tensor, window: Tensor) -> Tensor:
    """The wave, [B, K * step], of which frame k is centred on sample k * step.

    What fewer windows cover, at the ends, is weighted accordingly.
    """
    n_fft = len(window)
    frames = torch.fft.irfft(bins_BKF, n=n_fft) * window
    total = _add(frames.unflatten(-1, (OVERLAP, -1)))
    k = frames.shape[1]
    squares = window.square().view(1, 1, OVERLAP, -1).expand(1, k, -1, -1)
    weight = _add(squares)
    half = OVERLAP // 2
    return (total[:, half : half + k] / weight[:, half : half + k]).flatten(1)


def _add(pieces_BKOs: Tensor) -> Tensor:
    """Frames cut into pieces of a step, added where they lie over each other, [B, K + 3, s]."""
    b, k, overlap, step = pieces_BKOs.shape
    total = pieces_BKOs.new_zeros(b, k + overlap - 1, step)
    for n in range(overlap):
        total[:, n : n + k] += pieces_BKOs[:, :, n]
    return total

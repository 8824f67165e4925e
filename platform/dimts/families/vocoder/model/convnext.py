"""ConvNeXt blocks over time, channels last (Liu et al. 2022; for vocoders Siuzdak 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrameWindows(nn.Module):
    """A convolution over time as one matrix product: [B, T, D] -> [B, T, D']."""

    def __init__(self, d_in: int, d_out: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.linear = nn.Linear(kernel * d_in, d_out)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each frame with those around it, zeros beyond the ends."""
        margin = self.kernel // 2
        windows_BTDK = F.pad(x_BTD, (0, 0, margin, margin)).unfold(1, self.kernel, 1)
        return self.linear(windows_BTDK.flatten(2))


class Block(nn.Module):
    """Depthwise convolution over time, norm, two layers over channels, added to the input.

    The norm has no gain and the sum no layer scale: both would be factors of the layers beside
    them. The second layer starts small instead.
    """

    def __init__(self, channels: int, hidden: int, kernel: int, scale: float):
        super().__init__()
        self.depthwise_KD = nn.Parameter(torch.empty(kernel, channels))
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        nn.init.normal_(self.depthwise_KD, std=kernel**-0.5)
        nn.init.normal_(self.expand.weight, std=channels**-0.5)
        nn.init.normal_(self.contract.weight, std=scale * hidden**-0.5)
        nn.init.zeros_(self.expand.bias)
        nn.init.zeros_(self.contract.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> the same."""
        mixed_BTD = depthwise(x_BTD, self.depthwise_KD)
        y_BTD = F.layer_norm(mixed_BTD, mixed_BTD.shape[-1:])
        return x_BTD + self.contract(F.gelu(self.expand(y_BTD)))


def depthwise(x_BTD: Tensor, weight_KD: Tensor) -> Tensor:
    """Each channel convolved with its own weights, zeros beyond the ends: [B, T, D] -> same.

    As sums of shifted frames, which a CPU computes several times faster than `conv1d` with groups.
    """
    if torch.is_grad_enabled() and (x_BTD.requires_grad or weight_KD.requires_grad):
        return _Depthwise.apply(x_BTD, weight_KD)
    return _shifted_sum(x_BTD, weight_KD)


def _shifted_sum(x_BTD: Tensor, weight_KD: Tensor) -> Tensor:
    kernel, n = len(weight_KD), x_BTD.shape[1]
    sum_BTD = x_BTD * weight_KD[kernel // 2]
    for k in range(kernel):
        shift = k - kernel // 2
        if shift and abs(shift) < n:
            into, taken = _overlap(n, shift)
            sum_BTD[:, into].addcmul_(x_BTD[:, taken], weight_KD[k])
    return sum_BTD


def _overlap(n: int, shift: int) -> tuple[slice, slice]:
    """Frames t that have a frame t + shift, and those frames."""
    return slice(max(0, -shift), n - max(0, shift)), slice(max(0, shift), n + min(0, shift))


class _Depthwise(torch.autograd.Function):
    """`_shifted_sum` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_KD: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_KD)
        return _shifted_sum(x_BTD, weight_KD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD, weight_KD = ctx.saved_tensors
        (gradient_BTD,) = gradients
        kernel, n = len(weight_KD), x_BTD.shape[1]
        weight_gradient_KD = torch.zeros_like(weight_KD)
        for k in range(kernel):
            shift = k - kernel // 2
            if abs(shift) < n:
                into, taken = _overlap(n, shift)
                product = gradient_BTD[:, into] * x_BTD[:, taken]
                weight_gradient_KD[k] = product.sum((0, 1))
        return _shifted_sum(gradient_BTD, weight_KD.flip(0)), weight_gradient_KD

"""Convolutions over time as matrix products: ONNX Runtime computes those fast, and in int8."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.model.decoder import DecoderBlock

Model = TypeVar("Model", bound=nn.Module)


def depthwise(x_TD: Tensor, weight_KD: Tensor) -> Tensor:
    """Each channel convolved with its own weights, zeros beyond the ends: [T, D] -> same.

    The one kind that ONNX Runtime computes faster as what it is, if of two dimensions.
    """
    kernel, channels = weight_KD.shape
    x_1D1T = x_TD[None, None].permute(0, 3, 1, 2)
    y_1D1T = F.conv2d(x_1D1T, weight_KD.T[:, None, None], padding=(0, kernel // 2), groups=channels)
    return y_1D1T.permute(0, 2, 3, 1).squeeze((0, 1))


class FrameProduct(nn.Module):
    """A convolution as one product with the frames around each frame.

    Args:
        weight: [D', D, K].
        bias: [D'].
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.kernel = weight.shape[2]
        self.weight = nn.Parameter(weight.detach().permute(2, 1, 0).flatten(0, 1))
        self.bias = nn.Parameter(bias.detach())

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D']."""
        near, n, margin = x_TD, x_TD.shape[0], self.kernel // 2
        if margin:  # the frames around each, zeros beyond the ends
            padded = F.pad(x_TD, (0, 0, margin, margin))
            near = torch.cat([padded[k : k + n] for k in range(self.kernel)], 1)
        return near @ self.weight + self.bias


class PairProduct(nn.Module):
    """A convolution of three frames, of two frames at once by four products instead of six.

    The minimal filter F(2, 3) of Winograd 1980, as of Lavin & Gray 2016 ("Fast Algorithms for
    Convolutional Neural Networks").

    Args:
        weight: [D', D, 3].
        bias: [D'].
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        before, here, after = weight.detach().double().permute(2, 0, 1)
        self.before, self.after = _linear(before), _linear(after)
        self.sum = _linear((before + here + after) / 2, bias)
        self.difference = _linear((before - here + after) / 2)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> the first and the second of each two frames, [P, D'] both."""
        padded = F.pad(x_TD, (0, 0, 1, 3))
        rows_P = 2 * torch.arange(x_TD.shape[0] // 2 + 1)  # of slices export doubts the length
        a, b, c, d = (padded.index_select(0, rows_P + k) for k in range(4))
        one, other = self.sum(b + c), self.difference(c - b)
        return self.before(a - c) + (one + other), (one - other) - self.after(b - d)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.float())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


class PairedBlock(nn.Module):
    """A block of T3's decoder, of three frames, with its gated convolution as `PairProduct`."""

    def __init__(self, block: DecoderBlock):
        super().__init__()
        weight, bias = block.gated.weight, block.gated.bias
        assert bias is not None
        (own, gate), (own_bias, gate_bias) = weight.chunk(2), bias.chunk(2)
        self.norm, self.out = block.norm, _Transposed(block.out).product
        self.own, self.gate = PairProduct(own, own_bias), PairProduct(gate, gate_bias)

    def forward(self, x_1TD: Tensor, mask: Tensor) -> Tensor:
        """[1, T, D] -> the same; there is nothing to mask."""
        x_TD = x_1TD.squeeze(0)
        y_TD = self.norm(x_TD)
        pairs = zip(self.own(y_TD), self.gate(y_TD), strict=True)
        gated_P2D = torch.stack([own * gate.sigmoid() for own, gate in pairs], 1)
        gated_TD = gated_P2D.flatten(0, 1).index_select(0, torch.arange(x_TD.shape[0]))
        return (x_TD + self.out(gated_TD))[None]


class _Transposed(nn.Module):
    """In the place of an `nn.Conv1d` of one row: [1, D, T] -> [1, D', T]."""

    def __init__(self, convolution: nn.Conv1d):
        super().__init__()
        assert convolution.bias is not None
        self.product = FrameProduct(convolution.weight, convolution.bias)

    def forward(self, x_1DT: Tensor) -> Tensor:
        return self.product(x_1DT.squeeze(0).T).T[None]


def without_convolutions(model: Model) -> Model:
    """A copy of a model that computes the same of one row, without convolutions."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv1d):
                setattr(parent, name, _Transposed(child))
    return model

"""Convolutions over time as matrix products: ONNX Runtime computes those fast, and in int8."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Model = TypeVar("Model", bound=nn.Module)


def shifted(x_TD: Tensor, kernel: int) -> list[Tensor]:
    """The frames before, at and after each frame, zeros beyond the ends: `kernel` of [T, D]."""
    n = x_TD.shape[0]
    padded = F.pad(x_TD, (0, 0, kernel // 2, kernel // 2))
    return [padded[k : k + n] for k in range(kernel)]


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
        near = torch.cat(shifted(x_TD, self.kernel), 1) if self.kernel > 1 else x_TD
        return near @ self.weight + self.bias


class _Transposed(nn.Module):
    """In the place of an `nn.Conv1d` of one row: [1, D, T] -> [1, D', T]."""

    def __init__(self, convolution: nn.Conv1d):
        super().__init__()
        assert convolution.bias is not None
        self.product = FrameProduct(convolution.weight, convolution.bias)

    def forward(self, x_1DT: Tensor) -> Tensor:
        return self.product(x_1DT[0].T).T[None]


def without_convolutions(model: Model) -> Model:
    """A copy of a model that computes the same of one row, without convolutions."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv1d):
                setattr(parent, name, _Transposed(child))
    return model

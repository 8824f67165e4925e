"""A convolution over time that GPUs compute without turning its data over."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Convolution(nn.Conv1d):
    """`nn.Conv1d` of [B, D, T] that is a transposed view of [B, T, D], as all of T3's are.

    torch copies such a view for a convolution of one dimension. On a GPU, one of two dimensions
    takes it as it is: channels last, which is also the order that the matrix units want.
    """

    def __init__(self, d_in: int, d_out: int, kernel: int):
        super().__init__(d_in, d_out, kernel, padding=kernel // 2)
        self.margin = kernel // 2

    def forward(self, x_BDT: Tensor) -> Tensor:
        """[B, D, T] -> [B, D', T]."""
        if not x_BDT.is_cuda:
            return super().forward(x_BDT)
        weight, x_BD1T = self.weight.unsqueeze(2), x_BDT.unsqueeze(2)
        return F.conv2d(x_BD1T, weight, self.bias, padding=(0, self.margin)).squeeze(2)

"""Low-rank adapters that stand beside the published weights and merge into them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimts.families.chatterbox.model.config import LoraConfig
from dimts.families.chatterbox.model.llama import Block
from dimts.families.chatterbox.model.t3 import T3

DOWN, UP = ".lora_a", ".lora_b"


class LoraLinear(nn.Linear):
    """A frozen linear layer plus ``scale * B A x``; B starts at zero, so nothing changes.

    Its weight keeps its name; the adapter's matrices are `lora_a` [rank, in] and `lora_b`
    [out, rank].
    """

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight
        self.weight.requires_grad_(False)
        self.scale = config.scale
        self.lora_a = nn.Parameter(base.weight.new_empty(config.rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        adapted = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight) + self.scale * adapted


def add_lora(model: T3, config: LoraConfig) -> None:
    """Put an adapter beside each of the linear layers, in place; those are frozen.

    The adapters' first values are drawn by torch's generator.
    """
    for block in model.tfmr.layers:
        assert isinstance(block, Block)
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if name in config.linears:
                    assert isinstance(linear, nn.Linear)
                    setattr(part, name, LoraLinear(linear, config))


def merge_lora(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Weights of a model with adapters as those of one without; computed in float32."""
    merged = {name: w for name, w in weights.items() if not name.endswith((DOWN, UP))}
    for name, down in weights.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            change = weights[layer + UP].float() @ down.float()
            merged[f"{layer}.weight"] = torch.add(
                merged[f"{layer}.weight"].float(), change, alpha=config.scale
            )
    return merged

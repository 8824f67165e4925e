"""AdamW, its learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dimts.training.config import OptimizerConfig


class SkippingAdamW(torch.optim.AdamW):
    """AdamW that leaves a step out by what is found on the device, where nobody waits for it.

    Attributes:
        found_inf: float32 [], 1 if the next step is to change nothing; torch's fused kernels
            look at it.
    """

    found_inf: Tensor


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> SkippingAdamW:
    """AdamW that decays matrices, and embeddings if asked to (Loshchilov & Hutter 2019).

    What is frozen is none of its business. A module that keeps trained rows of an embedding apart
    from frozen ones names them by ``trained_rows``.
    """
    rows = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    rows |= {id(m.trained_rows) for m in model.modules() if hasattr(m, "trained_rows")}
    trained = [p for p in model.parameters() if p.requires_grad]
    embeddings = [p for p in trained if id(p) in rows]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in rows]
    vectors = [p for p in trained if p.ndim < 2]
    return SkippingAdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": embeddings, "weight_decay": config.embedding_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def learning_rate_share(step: int, max_steps: int, config: OptimizerConfig) -> float:
    """Share of the learning rate at a step counted from 0: linear up, then half a cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.final_share + (1 - config.final_share) * cosine


def extended_share(
    step: int, max_steps: int, config: OptimizerConfig, extended_at: int, share_before: float
) -> float:
    """The same in a run that was made longer: over as many steps as the warm-up has, the share
    goes from where the shorter schedule was to where one of `max_steps` is, and then follows it.

    Args:
        step, max_steps, config: as for `learning_rate_share`.
        extended_at: the first step of the longer schedule; -1 if there was no shorter one.
        share_before: of the shorter schedule at that step.
    """
    share = learning_rate_share(step, max_steps, config)
    if extended_at < 0 or step - extended_at >= config.warmup_steps:
        return share
    return share_before + (share - share_before) * (step - extended_at + 1) / config.warmup_steps


class MovingAverage:
    """Exponential moving average of a model's trained parameters, corrected for its start.

    Early on the average follows the weights closely: the decay of step n is at most
    (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        self.weights = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, current = [], []
        for name, parameter in _trained(model):
            averages.append(self.weights[name])
            current.append(parameter.detach())
        torch._foreach_lerp_(averages, current, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averages; a second call undoes it."""
        for name, parameter in _trained(model):
            weight: Tensor = self.weights[name].clone()
            self.weights[name].copy_(parameter)
            parameter.copy_(weight)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What is frozen has no average: even of equal values it could turn -0 into 0."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)

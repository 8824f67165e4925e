"""AdamW, its learning-rate schedule, and the moving average of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager

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

    # torch's own are wrapped for its compiler. The wrappers import that, a second of each start,
    # and nothing is compiled here.
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


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
    (1 + n) / (10 + n). What is frozen has no average: even of equal values it could turn -0 into 0.

    Args:
        model: whose weights are averaged.
        decay: of a step; 0 keeps no average, and nothing here has an effect.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad and decay}
        self._parameters = list(trained.values())
        self.weights = {name: p.detach().clone() for name, p in trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.weights:
            decay = min(self._decay, (1 + step) / (10 + step))
            current = [parameter.detach() for parameter in self._parameters]
            torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self.weights.values(), self._parameters, strict=True):
            weight = average.clone()
            average.copy_(parameter)
            parameter.copy_(weight)

"""Choosing the next speech token, by the rules and in the order of chatterbox-tts."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from dimts.core.config import Config
from dimts.families.chatterbox.model.config import MAX_SPEECH


class Sampling(Config):
    """How speech tokens are drawn; the package's values by default.

    Attributes:
        cfg_weight: how much further from what the model says without a text; 0: not at all.
        temperature: below 1 likely tokens become likelier; 0: always the likeliest.
        min_p: a token must be this share as likely as the likeliest.
        top_p: the likeliest tokens that sum up to this probability stay.
        repetition_penalty: tokens that occurred become less likely by it; 1: they do not.
        max_tokens: at most, 25 a second.
        n_bos: how often the sequence begins; the package, and what it loads, begins it twice.
    """

    cfg_weight: float = Field(0.5, ge=0)
    temperature: float = Field(0.8, ge=0)
    min_p: float = Field(0.05, ge=0, le=1)
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.2, ge=1)
    max_tokens: int = Field(1000, ge=1, le=MAX_SPEECH)
    n_bos: int = Field(2, ge=1, le=2)


def draw(
    logits_V: Tensor, before_N: Tensor, sampling: Sampling, generator: torch.Generator
) -> Tensor:
    """The next token, int64 [1].

    Args:
        logits_V: of the next token, after guidance.
        before_N: tokens that occurred, the beginning included.
        sampling: the rules.
        generator: on the device of the logits.
    """
    logits_V = logits_V.float()
    if sampling.repetition_penalty != 1:
        occurred_N = logits_V[before_N]
        penalty = sampling.repetition_penalty
        less_N = torch.where(occurred_N < 0, occurred_N * penalty, occurred_N / penalty)
        logits_V = logits_V.index_put((before_N,), less_N)
    if sampling.temperature == 0:
        return logits_V.argmax(keepdim=True)
    logits_V = logits_V / sampling.temperature
    if sampling.min_p:
        probabilities_V = logits_V.softmax(0)
        unlikely_V = probabilities_V < sampling.min_p * probabilities_V.max()
        logits_V = logits_V.masked_fill(unlikely_V, -torch.inf)
    if sampling.top_p < 1:
        rising_V, order_V = logits_V.sort()
        tail_V = rising_V.softmax(0).cumsum(0) <= 1 - sampling.top_p
        tail_V[-1] = False
        logits_V = logits_V.index_fill(0, order_V[tail_V], -torch.inf)
    return torch.multinomial(logits_V.softmax(0), 1, generator=generator)

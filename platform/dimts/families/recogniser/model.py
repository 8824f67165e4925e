"""A convolutional net that writes letters (CTC: Graves et al. 2006)."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.dataset import AcousticBatch
from dimts.families.recogniser.settings import ModelConfig
from dimts.families.vocoder.model.convnext import Block, FrameWindows
from dimts.training.precision import autocast
from dimts.training.task import Losses, Moment

KERNEL, STRIDE = 5, 2
"""Steps that the first layer hears, and frames of a step."""


class Recogniser(nn.Module):
    """Log mel to scores of tokens, of which the last one is CTC's blank.

    Buffers hold what the mel is normalised with.
    """

    mel_mean_M: Tensor
    mel_std_M: Tensor

    def __init__(self, config: ModelConfig, n_tokens: int, mel_mean_M: Tensor, mel_std_M: Tensor):
        super().__init__()
        self.config, self.blank = config, n_tokens
        self.register_buffer("mel_mean_M", mel_mean_M)
        self.register_buffer("mel_std_M", mel_std_M)
        self.first = FrameWindows(STRIDE * len(mel_mean_M), config.width, KERNEL)
        c, scale = config, config.blocks**-0.5
        self.blocks = nn.ModuleList(
            Block(c.width, c.hidden, c.kernel, scale) for _ in range(c.blocks)
        )
        self.norm = nn.LayerNorm(c.width)
        self.last = nn.Linear(c.width, n_tokens + 1)
        for block in config.freeze:
            self.blocks[block].requires_grad_(requires_grad=False)

    def forward(self, mel_BTM: Tensor, n_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, S, V + 1] in float32, and steps of each row, int64 [B].

        A row's do not depend on the others it is padded to.
        """
        n_steps_B = steps(n_frames_B)
        mel_BTM = F.pad(mel_BTM, (0, 0, 0, mel_BTM.shape[1] % STRIDE))
        frame_T = torch.arange(mel_BTM.shape[1], device=mel_BTM.device)
        mel_BTM = (mel_BTM - self.mel_mean_M) / self.mel_std_M
        mel_BTM = mel_BTM * (frame_T < n_frames_B[:, None]).unsqueeze(-1)
        x_BSD = self.first(mel_BTM.unflatten(1, (-1, STRIDE)).flatten(2))
        there_BS1 = (frame_T[: x_BSD.shape[1]] < n_steps_B[:, None]).unsqueeze(-1)
        for block in self.blocks:
            x_BSD = x_BSD * there_BS1
            added_BSD = F.dropout(block(x_BSD) - x_BSD, self.config.dropout, self.training)
            x_BSD = x_BSD + added_BSD
        return self.last(self.norm(x_BSD)).float().log_softmax(-1), n_steps_B


class CtcObjective(nn.Module):
    """The family's only objective."""

    def __init__(self, model: Recogniser, amp: str):
        super().__init__()
        self.model, self.amp = model, amp

    def forward(self, batch: AcousticBatch, moment: Moment) -> Losses:
        """Nats a token of the whole batch; see `dimts.training.task.Objective`."""
        with autocast(batch.mel_BTM.device, self.amp):
            scores_BSV, n_steps_B = self.model(batch.mel_BTM, batch.n_frames_B)
        loss_B = F.ctc_loss(
            scores_BSV.transpose(0, 1), batch.tokens_BN, n_steps_B, batch.n_tokens_B,
            blank=self.model.blank, reduction="none",
        )  # fmt: skip
        return {"loss": loss_B.sum() / batch.n_tokens}


def steps(n_frames: Tensor) -> Tensor:
    """What the net makes of some frames, int64."""
    return (n_frames + STRIDE - 1) // STRIDE


def written(scores_SV: NDArray[np.float32]) -> list[int]:
    """The tokens of the likeliest path: repetitions are one, blanks none."""
    blank = scores_SV.shape[-1] - 1
    return [token for token, _ in groupby(scores_SV.argmax(-1).tolist()) if token != blank]

"""The family's only objective: cross-entropy of speech tokens, and a little of the text's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.chatterbox.dataset import SpeechBatch
from dimts.families.chatterbox.model.config import STOP_SPEECH
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.settings import ChatterboxTraining
from dimts.training.precision import autocast
from dimts.training.task import Losses, Moment

EMOTION = 0.5
"""Of all rows, the package's neutral one."""
IGNORED = -100


class RowLosses(NamedTuple):
    """Sums of each row, [B].

    Attributes:
        speech, text: cross-entropy in nats; that of a text that is not shown is 0.
        ends: 1 where EOS is the likeliest token after the last one.
    """

    speech: Tensor
    text: Tensor
    ends: Tensor


class SpeechObjective(nn.Module):
    """Every token after BOS, and EOS, is a target; the prompt is none, as it is conditioning."""

    def __init__(self, model: T3, config: ChatterboxTraining):
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: SpeechBatch, moment: Moment) -> Losses:
        """Shares of the whole batch's losses; see `dimts.training.task.Objective`.

        In evaluation ``text_gap`` is how many nats a token the text of another row costs.
        """
        rows = row_losses(self.model, batch, self.config.amp)
        speech = rows.speech.sum() / batch.n_speech_targets
        text = rows.text.sum() / max(1, batch.n_text_targets)
        losses = {
            "loss": speech + self.config.text_weight * text,
            "speech_loss": speech,
            "text_loss": text,
            "eos_recall": rows.ends.sum() / batch.n_rows,
        }
        if batch.other_BL is not None and not self.training:
            other = row_losses(self.model, batch, self.config.amp, with_other_texts=True)
            losses["text_gap"] = (other.speech - rows.speech).sum() / batch.n_speech_targets
        return losses


def row_losses(
    model: T3, batch: SpeechBatch, amp: str, with_other_texts: bool = False
) -> RowLosses:
    """Losses of a batch, or of its speech with the texts of other rows.

    Logits are padded; a padded row's are those of the row alone.
    """
    tokens_BL, n_text_B, (width, n_speech) = batch.tokens_BL, batch.n_text_B, batch.widths
    if with_other_texts:
        assert batch.other_BL is not None and batch.n_other_B is not None
        tokens_BL, n_text_B, width = batch.other_BL, batch.n_other_B, batch.other_width
    text_BN = _cut(tokens_BL, torch.zeros_like(n_text_B), n_text_B, width)
    speech_BS = shown_BS = _cut(tokens_BL, n_text_B, batch.n_speech_B, n_speech)
    if batch.shown_BL is not None:
        shown_BS = _cut(batch.shown_BL, batch.n_text_B, batch.n_speech_B, n_speech)
    with autocast(tokens_BL.device, amp):
        text_BNV, speech_BSV = model(
            text_BN,
            n_text_B,
            shown_BS,
            batch.n_speech_B,
            batch.speaker_BE,
            batch.prompt_BP,
            batch.n_prompt_B,
            torch.full_like(batch.speaker_BE[:, 0], EMOTION),
            batch.drop_text_B,
        )
    last_B = batch.n_speech_B - 2
    ends_B = speech_BSV[torch.arange(len(last_B), device=last_B.device), last_B].argmax(1)
    text_B = _cross_entropy(text_BNV, text_BN, n_text_B)
    return RowLosses(
        _cross_entropy(speech_BSV, speech_BS, batch.n_speech_B),
        text_B.masked_fill(batch.drop_text_B, 0.0),
        (ends_B == STOP_SPEECH).float(),
    )


def _cut(tokens_BL: Tensor, start_B: Tensor, n_B: Tensor, width: int) -> Tensor:
    """`n_B` ids of each row from `start_B` on, padded with 0 to [B, width]."""
    place_W = torch.arange(width, device=tokens_BL.device)
    index_BW = (start_B[:, None] + place_W).clamp(max=tokens_BL.shape[1] - 1)
    return tokens_BL.gather(1, index_BW).masked_fill(place_W >= n_B[:, None], 0)


def _cross_entropy(logits_BTV: Tensor, ids_BT: Tensor, n_B: Tensor) -> Tensor:
    """Of the token after each one, summed over each row, [B]."""
    place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    targets_BT = F.pad(ids_BT[:, 1:], (0, 1)).masked_fill(place_T >= n_B[:, None] - 1, IGNORED)
    nats_BT = F.cross_entropy(
        logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nats_BT.view_as(targets_BT).sum(1)

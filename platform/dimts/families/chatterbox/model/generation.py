"""Speech tokens of a text, one after another, with guidance and cached keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dimts.families.chatterbox.model.config import N_SPEECH, START_SPEECH, STOP_SPEECH
from dimts.families.chatterbox.model.sampling import Sampling, draw
from dimts.families.chatterbox.model.t3 import T3


class Generated(NamedTuple):
    """What a model says.

    Attributes:
        ids: speech tokens between BOS and EOS, int64 [n].
        ended: whether the model ended by itself, before the tokens allowed were used up.
    """

    ids: Tensor
    ended: bool


@torch.inference_mode()
def generate(
    model: T3,
    text_ids_N: Tensor,
    speaker_emb_E: Tensor,
    prompt_ids_P: Tensor,
    emotion: float = 0.5,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Generated:
    """Speech tokens of a text; the same ones for the same seed on one kind of device.

    Ids that the S3 tokenizer does not know are never among them.

    Args:
        model: in evaluation mode.
        text_ids_N: int64, from START to STOP.
        speaker_emb_E: vector of the voice encoder.
        prompt_ids_P: S3 tokens of a reference clip, at least one.
        emotion: 0..1.
        sampling: how tokens are drawn.
        seed: of what is drawn.
    """
    sampling = sampling or Sampling()
    device = model.speech_head.weight.device
    text_ids_N, speaker_emb_E, prompt_ids_P = (
        x.to(device) for x in (text_ids_N, speaker_emb_E, prompt_ids_P)
    )
    generator = torch.Generator(device).manual_seed(seed)
    # The second row of guidance is computed without the text.
    rows = 2 if sampling.cfg_weight else 1
    drop_B = torch.arange(rows, device=device) == 1
    length_1 = torch.tensor([len(prompt_ids_P)], device=device)
    emotion_1 = torch.tensor([emotion], device=device)
    conditions_1LC = model.condition(speaker_emb_E[None], prompt_ids_P[None], length_1, emotion_1)
    bos_B1 = torch.full((rows, 1), START_SPEECH, device=device)
    start_BTC = (
        conditions_1LC.expand(rows, -1, -1),
        model.embed_text(text_ids_N.expand(rows, -1), drop_B),
        *[model.embed_speech(bos_B1)] * sampling.n_bos,
    )
    x_BTC = torch.cat(start_BTC, dim=1)
    caches = model.tfmr.new_caches(rows, x_BTC.shape[1] + sampling.max_tokens)
    row_V = torch.arange(model.config.speech_vocab, device=device)
    never_V = (row_V >= N_SPEECH) & (row_V != STOP_SPEECH)
    ids_N = bos_B1[0]
    for number in range(1, sampling.max_tokens + 1):
        logits_BV = model.speech_head(model.tfmr(x_BTC, caches)[:, -1])
        logits_V = logits_BV[0]
        if rows == 2:
            logits_V = logits_V + sampling.cfg_weight * (logits_V - logits_BV[1])
        logits_V = logits_V.masked_fill(never_V, -torch.inf)
        next_1 = draw(logits_V, ids_N, sampling, generator)
        if next_1 == STOP_SPEECH:
            return Generated(ids_N[1:], ended=True)
        ids_N = torch.cat((ids_N, next_1))
        x_BTC = model.embed_speech(next_1.expand(rows, 1), start=number)
    return Generated(ids_N[1:], ended=False)

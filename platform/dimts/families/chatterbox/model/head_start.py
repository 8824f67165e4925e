"""Where the attention of a T3 that starts from nothing looks first.

Its text and its speech are drawn at random, and fifty times as loud as its positions, so it would
have to find out which letter is being said from half an hour of speech, and learns to go without.
Here positions begin as sinusoids, those of the speech at the rate of the text, and some heads of
the first block as equal projections of both (Deep Voice 3: Ping et al. 2018): at step 0 they look
at the letters about to be said. All of it is trained like the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dimts.families.chatterbox.model.llama import Attention, Block
from dimts.families.chatterbox.model.t3 import T3

RMS = 1.5
"""Of a position beside a token, whose elements have the variance 1."""
FASTEST, RANGE = 1.5, 75.0
"""Radians a letter, and how many times slower the slowest sinusoid is."""
SHARE = 0.8
"""Of the sinusoids, the fastest ones, that heads compare."""
LEAD = 2.0
"""Letters before the first one said: START, and one ahead."""
SHARPNESS = 5.0
"""Of the logits of attention, in nats."""
STILL = 0.01
"""Radians a step below which a rotary pair counts as not turning."""


@torch.no_grad()
def look_at_the_text(model: T3, pace: float) -> None:
    """Let an untrained model begin with attention on the letters about to be said.

    Args:
        model: changed in place: tables of positions, and half of the heads of the first block.
        pace: speech tokens a letter, of the corpus.
    """
    width = model.config.hidden
    order_F = torch.arange(width // 2) / max(1, width // 2 - 1)
    rates_F = FASTEST * RANGE**-order_F

    def sinusoids(positions_T: Tensor) -> Tensor:
        angles_TF = positions_T[:, None] * rates_F
        return RMS * 2**0.5 * torch.cat((angles_TF.sin(), angles_TF.cos()), 1)

    text_NC, speech_SC = model.text_pos_emb.emb.weight, model.speech_pos_emb.emb.weight
    # Text has them in the opposite order of channels: none is alike to speech by itself.
    text_NC.copy_(sinusoids(torch.arange(len(text_NC))).flip(1))
    speech_SC.copy_(sinusoids(LEAD + torch.arange(len(speech_SC)) / pace))

    first = model.tfmr.layers[0]
    assert isinstance(first, Block)
    attention: Attention = first.self_attn
    heads, d = attention.heads // 2, width // attention.heads
    cosines_TD, sines_TD = model.tfmr.rotations()
    still = (torch.atan2(sines_TD[1, : d // 2], cosines_TD[1, : d // 2]) < STILL).nonzero()[:, 0]
    n_pairs = len(still) * heads
    if not n_pairs:  # of heads so narrow
        return
    chosen = torch.linspace(0, SHARE * (width // 2 - 1), n_pairs).round().long()
    head = torch.arange(n_pairs) % heads
    row = head * d + still[torch.arange(n_pairs) // heads]
    query_DC = attention.q_proj.weight[: heads * d]
    query_DC.zero_()
    gain = (SHARPNESS * d**0.5 / len(still)) ** 0.5
    query_DC[row, chosen] = gain
    query_DC[row + d // 2, width // 2 + chosen] = gain
    attention.k_proj.weight[: heads * d] = query_DC.flip(1)

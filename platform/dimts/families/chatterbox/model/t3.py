"""The T3 of Chatterbox: text, speaker and prompt to speech tokens.

Names and shapes of the weights are those of chatterbox-tts (292 tensors at 30 layers).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dimts.families.chatterbox.model.conditioning import Conditioning
from dimts.families.chatterbox.model.config import MAX_SPEECH, MAX_TEXT, N_CONDITION, T3Config
from dimts.families.chatterbox.model.llama import INIT_STD, Llama


class Positions(nn.Module):
    """A learned vector for each position of a part of the sequence."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(length, width)
        nn.init.normal_(self.emb.weight, std=INIT_STD)

    def forward(self, length: int, start: int = 0) -> Tensor:
        """Vectors of positions start..start + length - 1, [length, C]."""
        return self.emb.weight[start : start + length]


class T3(nn.Module):
    """Speech tokens after a text, in a voice."""

    def __init__(self, config: T3Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden
        self.tfmr = Llama(config)
        self.cond_enc = Conditioning(config)
        self.text_emb = nn.Embedding(config.text_vocab, width)
        self.speech_emb = nn.Embedding(config.speech_vocab, width)
        self.text_pos_emb = Positions(MAX_TEXT + 2, width)
        self.speech_pos_emb = Positions(MAX_SPEECH + 4, width)
        self.text_head = nn.Linear(width, config.text_vocab, bias=False)
        self.speech_head = nn.Linear(width, config.speech_vocab, bias=False)

    def forward(
        self,
        text_ids_BN: Tensor,
        text_lengths_B: Tensor,
        speech_ids_BS: Tensor,
        speech_lengths_B: Tensor,
        speaker_emb_BE: Tensor,
        prompt_ids_BP: Tensor,
        prompt_lengths_B: Tensor,
        emotion_B: Tensor,
        drop_text_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of the token after each one, of the text [B, N, V] and of the speech [B, S, V].

        Rows are computed as ``[34 conditions | text | speech | padding]`` without a gap, so that
        causal attention needs no mask and a row's logits do not depend on the batch. Logits past
        a row's length mean nothing.

        Args:
            text_ids_BN: int64, from START to STOP; padded at the right with any id.
            text_lengths_B: ids of each text, START and STOP included.
            speech_ids_BS: int64, from BOS on; padded likewise.
            speech_lengths_B: ids of each, BOS included.
            speaker_emb_BE: vectors of the voice encoder.
            prompt_ids_BP: S3 tokens of a reference clip, padded likewise.
            prompt_lengths_B: of these; at least 1.
            emotion_B: 0..1; 0.5 is neutral.
            drop_text_B: true where the embeddings of the text (not its positions) are zero,
                which is how classifier-free guidance computes without a text.
        """
        n_text, n_speech = text_ids_BN.shape[1], speech_ids_BS.shape[1]
        conditions_BLC = self.condition(speaker_emb_BE, prompt_ids_BP, prompt_lengths_B, emotion_B)
        text_BNC = self.embed_text(text_ids_BN, drop_text_B)
        speech_BSC = self.embed_speech(speech_ids_BS)
        x_BTC = torch.cat((conditions_BLC, text_BNC, speech_BSC), dim=1)
        there_BT = torch.cat(
            (
                torch.ones_like(x_BTC[:, :N_CONDITION, 0], dtype=torch.bool),
                _within(text_lengths_B, n_text),
                _within(speech_lengths_B, n_speech),
            ),
            dim=1,
        )
        order_BT = (~there_BT).int().argsort(dim=1, stable=True)
        hidden_BTC = self.tfmr(_reorder(x_BTC, order_BT))
        hidden_BTC = _reorder(hidden_BTC, order_BT.argsort(dim=1))
        _, text_BNC, speech_BSC = hidden_BTC.split((N_CONDITION, n_text, n_speech), dim=1)
        return self.text_head(text_BNC), self.speech_head(speech_BSC)

    def condition(
        self,
        speaker_emb_BE: Tensor,
        prompt_ids_BP: Tensor,
        prompt_lengths_B: Tensor,
        emotion_B: Tensor,
    ) -> Tensor:
        """The positions before the text, [B, 34, C]."""
        mask_BP = _within(prompt_lengths_B, prompt_ids_BP.shape[1])
        prompt_BPC = self.embed_speech(prompt_ids_BP)
        conditions: Tensor = self.cond_enc(speaker_emb_BE, prompt_BPC, mask_BP, emotion_B)
        return conditions

    def embed_text(self, ids_BN: Tensor, drop_B: Tensor | None = None) -> Tensor:
        """Text ids with their positions, [B, N, C]; without the ids where `drop_B`."""
        tokens_BNC = self.text_emb(ids_BN)
        if drop_B is not None:
            tokens_BNC = tokens_BNC.masked_fill(drop_B[:, None, None], 0.0)
        embedded: Tensor = tokens_BNC + self.text_pos_emb(ids_BN.shape[1])
        return embedded

    def embed_speech(self, ids_BS: Tensor, start: int = 0) -> Tensor:
        """Speech ids with their positions from `start`, [B, S, C]."""
        embedded: Tensor = self.speech_emb(ids_BS) + self.speech_pos_emb(ids_BS.shape[1], start)
        return embedded


def _within(lengths_B: Tensor, size: int) -> Tensor:
    """Bool [B, size], true before each row's length."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def _reorder(x_BTC: Tensor, order_BT: Tensor) -> Tensor:
    """Each row's positions in an order of its own."""
    return x_BTC.gather(1, order_BT[:, :, None].expand_as(x_BTC))

"""T3: text to mel with an alignment that it learns from the corpus alone."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.families.acoustic.alignment.search import search, skippable_states
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.decoder import MelDecoder
from dimts.families.acoustic.model.durations import (
    N_POSITION_FEATURES,
    DurationPredictor,
    look_up,
    position_features,
    regulate,
    round_durations,
)
from dimts.families.acoustic.model.embedding import SpeakerEmbedding
from dimts.families.acoustic.model.encoder import TextEncoder
from dimts.families.acoustic.model.pitch import HarmonicSource, Pitch, PitchPredictor
from dimts.families.acoustic.postfilter import N_MODULATIONS

MAX_STATE_FRAMES = 1000.0
"""Of a state, as predicted, lest a voice that learned nonsense asks for all memory there is."""


class T3Output(NamedTuple):
    """What one pass yields.

    Attributes:
        mel_BTM: normalised log-mel, predicted.
        durations_BNS: int64, the frames a state that the mel was laid out by.
        log_durations_BNS: float32, predicted log of the expected frames.
        means_BNSM: normalised log-mel that each state is expected to look like.
        state_BT: int64, number of each frame's state among the N * S of its row.
        valid_BN, valid_BT: bool, false on padding.
        pitch: as predicted; None if the model predicts none.
        f0_BT: float32, Hz, 0 where unvoiced: what the decoder was shown.
    """

    mel_BTM: Tensor
    durations_BNS: Tensor
    log_durations_BNS: Tensor
    means_BNSM: Tensor
    state_BT: Tensor
    valid_BN: Tensor
    valid_BT: Tensor
    pitch: Pitch | None = None
    f0_BT: Tensor | None = None


class T3(nn.Module):
    """Encoder -> durations -> length regulator -> decoder.

    Args:
        config: sizes.
        factors_VF: the tokenizer's factor table, int64 [n_vocab, F].
        factor_sizes: rows of each factor's embedding.
        mel_mean_M, mel_std_M: statistics of the training frames, natural-log mel.
        n_speakers: rows of the table of speakers; 0: there is no table, as for one speaker.
    """

    mel_mean_M: Tensor
    mel_std_M: Tensor
    postfilter_FM: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        factors_VF: Tensor,
        factor_sizes: tuple[int, ...],
        mel_mean_M: Tensor,
        mel_std_M: Tensor,
        n_speakers: int = 0,
    ):
        super().__init__()
        n_mels, width, states = len(mel_mean_M), config.width, config.states_per_token
        self.config = config
        self.register_buffer("mel_mean_M", mel_mean_M.float())
        self.register_buffer("mel_std_M", mel_std_M.float())
        self.encoder = TextEncoder(factors_VF, factor_sizes, width, config.encoder)
        self.duration = DurationPredictor(width, states, config.duration)
        self.state_means = nn.Linear(width, states * n_mels)
        self.state_embedding = nn.Parameter(torch.zeros(states, width))
        self.position = nn.Linear(2 * N_POSITION_FEATURES, width)
        self.decoder = MelDecoder(width, n_mels, config.decoder)
        self.pitch = PitchPredictor(width, config.pitch) if config.pitch else None
        self.source = HarmonicSource(width, n_mels, n_speakers) if config.pitch else None
        self.speaker = SpeakerEmbedding(n_speakers, width) if n_speakers else None
        gains = torch.ones(N_MODULATIONS, n_mels) if config.postfilter else None
        self.register_buffer("postfilter_FM", gains)

    def normalise(self, mel_BTM: Tensor) -> Tensor:
        """Natural-log mel -> zero mean and unit variance in each bin."""
        return (mel_BTM - self.mel_mean_M) / self.mel_std_M

    def denormalise(self, mel_BTM: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return mel_BTM * self.mel_std_M + self.mel_mean_M

    def forward(
        self,
        tokens_BN: Tensor,
        n_tokens_B: Tensor,
        mel_BTM: Tensor | None = None,
        n_frames_B: Tensor | None = None,
        durations_BNS: Tensor | None = None,
        speed: float = 1.0,
        f0_BT: Tensor | None = None,
        pitch_shift: float = 1.0,
        speakers_B: Tensor | None = None,
    ) -> T3Output:
        """Text to mel; training and synthesis differ only in where the durations come from.

        Args:
            tokens_BN: int64, padded with 0.
            n_tokens_B: int64.
            mel_BTM: normalised log-mel to align with when no durations are given.
            n_frames_B: its frames.
            durations_BNS: int64, frames a state to lay the mel out by.
            speed: how fast predicted durations are spoken, 1 as learned.
            f0_BT: F0 in Hz, 0 where unvoiced, to be shown to the decoder; as predicted if None.
            pitch_shift: what predicted F0 is multiplied by.
            speakers_B: int64, rows of the table of speakers, of a model that has one.
        """
        valid_BN = torch.arange(tokens_BN.shape[1], device=tokens_BN.device) < n_tokens_B[:, None]
        x_BND = self.encoder(tokens_BN, valid_BN)
        if self.speaker is not None:
            assert speakers_B is not None
            x_BND = x_BND + self.speaker(speakers_B)[:, None] * valid_BN[..., None]
        log_durations_BNS = self.duration(x_BND.detach(), valid_BN)
        means_BNSM = self.state_means(x_BND).float()
        means_BNSM = means_BNSM.unflatten(-1, (self.config.states_per_token, -1))
        if durations_BNS is None and mel_BTM is not None:
            assert n_frames_B is not None
            durations_BNS = align(means_BNSM, n_tokens_B, mel_BTM, n_frames_B)
        elif durations_BNS is None:
            expected_BNS = log_durations_BNS.exp().nan_to_num(0).clamp_max(MAX_STATE_FRAMES)
            durations_BNS = round_durations(expected_BNS / speed, valid_BN)
        # A mel is as wide as its longest row; without one the CPU has to ask the durations.
        n_frames = int(durations_BNS.sum((1, 2)).max()) if mel_BTM is None else mel_BTM.shape[1]
        frames_BTD, state_BT, valid_BT = self._lay_out(x_BND, durations_BNS, n_frames)
        pitch = None
        if self.pitch is not None and self.source is not None:
            pitch = self.pitch(frames_BTD.detach(), valid_BT[..., None])
            if f0_BT is None:
                f0_BT = self.source.f0(pitch, pitch_shift, speakers_B).detach()
            frames_BTD = frames_BTD + self.source(f0_BT, speakers_B)
        mel_BTM = self.decoder(frames_BTD, valid_BT[..., None])
        return T3Output(
            mel_BTM, durations_BNS, log_durations_BNS, means_BNSM, state_BT, valid_BN, valid_BT,
            pitch, f0_BT,
        )  # fmt: skip

    def _lay_out(
        self, x_BND: Tensor, durations_BNS: Tensor, n_frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A vector for each frame, [B, T, D], its state and whether it is one, [B, T]."""
        b, n, s = durations_BNS.shape
        n_frames_B = durations_BNS.sum((1, 2))
        state_BT, state_offset, state_length = regulate(durations_BNS.view(b, n * s), n_frames)
        token_BT, token_offset, token_length = regulate(durations_BNS.sum(2), n_frames)
        offsets = torch.stack((state_offset, token_offset))
        lengths = torch.stack((state_length, token_length))
        positions = torch.cat(position_features(offsets, lengths).unbind(), dim=-1)
        frames_BTD = look_up(x_BND, token_BT)
        frames_BTD = frames_BTD + F.embedding(state_BT % s, self.state_embedding)
        frames_BTD = frames_BTD + self.position(positions)
        valid_BT = torch.arange(n_frames, device=x_BND.device) < n_frames_B[:, None]
        return frames_BTD, state_BT, valid_BT


@torch.no_grad()
def align(
    means_BNSM: Tensor,
    n_tokens_B: Tensor,
    mel_BTM: Tensor,
    n_frames_B: Tensor,
) -> Tensor:
    """Monotonic alignment search of a mel against a text's states: int64 [B, N, S].

    The score of a frame in a state is the log-density of a Gaussian of unit variance. Which
    states may be passed over is `skippable_states`' to say.
    """
    b, n, s, m = means_BNSM.shape
    means_BJM = means_BNSM.float().view(b, n * s, m)
    with torch.autocast(means_BNSM.device.type, enabled=False):
        scores_BTJ = mel_BTM.float() @ means_BJM.transpose(1, 2)
    scores_BTJ = scores_BTJ - 0.5 * means_BJM.square().sum(-1)[:, None]
    # What is not finite is for the loss to show: any path will do, the step is left out.
    scores_BTJ = scores_BTJ.nan_to_num(nan=0.0, posinf=1e20, neginf=-1e20)
    if scores_BTJ.is_cuda and _searches_on_device():
        from dimts.families.acoustic.alignment.search_triton import search_on_device

        return search_on_device(scores_BTJ, n_frames_B, n_tokens_B * s, s).long().view(b, n, s)
    durations_BJ = search(
        np.ascontiguousarray(scores_BTJ.cpu().numpy()),
        n_frames_B.cpu().numpy(),
        (n_tokens_B * s).cpu().numpy(),
        skippable_states(n, s),
    )
    return torch.from_numpy(durations_BJ).to(means_BNSM.device).long().view(b, n, s)


def _searches_on_device() -> bool:
    if find_spec("triton") is None:  # not every torch brings it
        return False
    from dimts.families.acoustic.alignment.search_triton import works

    return works()

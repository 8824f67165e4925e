"""T3 as it speaks one text: token ids to all that the vocoder's generator is given."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.export.convolution import PairedBlock, without_convolutions
from dimts.export.vocoder_graph import PitchGraph
from dimts.families.acoustic.model.decoder import DecoderBlock
from dimts.families.acoustic.model.durations import position_features, round_durations
from dimts.families.acoustic.model.t3 import MAX_STATE_FRAMES, T3
from dimts.families.acoustic.postfilter import HOP, WINDOW
from dimts.families.vocoder.dataset import UNVOICED_HZ
from dimts.families.vocoder.model.excitation import cycles_at_frames
from dimts.families.vocoder.model.pitch_net import Pitch
from dimts.families.vocoder.model.vocoder import Vocoder

OUTPUTS = ("mel", "f0", "voiced", "cycles", "durations")
"""Finished natural-log mel [T, M]; F0 in Hz, positive also where nothing is voiced, voicing and the
phase of F0 in cycles [T]; int64 frames of each token's states [N, S]."""


class AcousticGraph(nn.Module):
    """What `AcousticSpeaker.mel` computes, of one row and with operations that ONNX has.

    Args:
        model: of the voice.
        vocoder: reads F0 off the mel where the model predicts none, and says how often samples
            come.
        by_pairs: the decoder's convolutions as `PairProduct`, which is faster, larger by a third,
            and not exact enough for int8.
    """

    def __init__(self, model: T3, vocoder: Vocoder, by_pairs: bool = False):
        super().__init__()
        self.t3 = without_convolutions(model)
        if by_pairs and model.config.decoder.kernel == 3:
            for row, block in enumerate(model.decoder.blocks):
                assert isinstance(block, DecoderBlock)
                self.t3.decoder.blocks[row] = PairedBlock(block)
        self.seconds = vocoder.mel.hop_length / vocoder.mel.sample_rate
        self.find_pitch = None if model.pitch else PitchGraph(vocoder)
        self.postfilter: Postfilter | None = None
        if model.postfilter_FM is not None and model.config.postfilter:
            self.postfilter = Postfilter(model.postfilter_FM**model.config.postfilter)

    def forward(
        self, ids_N: Tensor, speed_1: Tensor, pitch_1: Tensor, speaker_1: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """See `OUTPUTS`.

        Args:
            ids_N: int64 tokens of a text.
            speed_1, pitch_1: multiples of what was learned.
            speaker_1: int64, row of the table of speakers, of a model that has one.
        """
        t3, true_11 = self.t3, torch.ones(1, 1, dtype=torch.bool)
        x_BND = t3.encoder(ids_N[None], true_11)
        if t3.speaker is not None:
            assert speaker_1 is not None
            x_BND = x_BND + t3.speaker(speaker_1)[:, None]
        expected_BNS = t3.duration(x_BND, true_11).exp().nan_to_num(0).clamp_max(MAX_STATE_FRAMES)
        durations_BNS = round_durations(expected_BNS / speed_1, true_11)
        frames_BTD = self._lay_out(x_BND[0], durations_BNS[0])[None]
        true_111 = torch.ones(1, 1, 1)
        pitch: Pitch | None = None
        if t3.pitch is not None and t3.source is not None:
            f0_BT = t3.source.f0(t3.pitch(frames_BTD, true_111), pitch_1, speaker_1)
            frames_BTD = frames_BTD + t3.source(f0_BT, speaker_1)
            pitch = filled(f0_BT)
        mel_TM = t3.denormalise(t3.decoder(frames_BTD, true_111)).squeeze(0)
        if self.postfilter is not None:
            mel_TM = self.postfilter(mel_TM)
        if self.find_pitch is not None:
            pitch = self.find_pitch(mel_TM)
        assert pitch is not None
        cycles_T = cycles_at_frames(pitch, 1, 1)[0, :-1] * self.seconds
        cycles_T = (cycles_T - cycles_T.floor()).float()
        return mel_TM, pitch.f0_BT[0], pitch.voiced_BT[0], cycles_T, durations_BNS[0]

    def _lay_out(self, x_ND: Tensor, durations_NS: Tensor) -> Tensor:
        """A vector for each frame, [T, D]; see `T3._lay_out`."""
        s = durations_NS.shape[1]
        state_T, *of_state = spans(durations_NS.flatten())
        token_T, *of_token = spans(durations_NS.sum(1))
        offsets, lengths = (torch.stack(pair) for pair in zip(of_state, of_token, strict=True))
        positions_TP = torch.cat(position_features(offsets, lengths).unbind(), dim=-1)
        frames_TD = x_ND[token_T] + F.embedding(state_T % s, self.t3.state_embedding)
        return frames_TD + self.t3.position(positions_TP)


def spans(durations_J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each frame the span that it belongs to, int64, frames since that began, and its length.

    ONNX has no search; here a running sum counts the spans that have ended.
    """
    ends_J = durations_J.cumsum(0)
    ended = torch.zeros(ends_J[-1] + 1, dtype=torch.int64)  # type: ignore[call-overload]
    index_T = ended.scatter_add(0, ends_J, torch.ones_like(ends_J)).cumsum(0)[:-1]
    length_T = durations_J[index_T]
    frames_T = torch.ones_like(index_T).cumsum(0) - 1
    return index_T, (frames_T - (ends_J[index_T] - length_T)).float(), length_T.float()


def filled(f0_BT: Tensor) -> Pitch:
    """F0 of one row in straight lines through what is not voiced; see `without_gaps`."""
    f0_T = f0_BT[0]
    voiced_T = f0_T > 0
    before_T = voiced_T.long().cumsum(0)  # voiced frames so far
    # One more, so that of none there is a first one.
    at_V = torch.cat([voiced_T.nonzero()[:, 0], torch.zeros(1, dtype=torch.int64)])
    last = voiced_T.sum() - 1
    left_T = at_V[(before_T - 1).clamp_min(0)]
    right_T = at_V[torch.minimum(before_T, last).clamp_min(0)]
    frames_T = torch.ones_like(before_T).cumsum(0) - 1
    share_T = ((frames_T - left_T) / (right_T - left_T).clamp_min(1)).clamp(0, 1)
    line_T = f0_T[left_T] + (f0_T[right_T] - f0_T[left_T]) * share_T
    line_T = torch.where(voiced_T, f0_T, torch.where(line_T > 0, line_T, UNVOICED_HZ))
    return Pitch(line_T[None], voiced_T.float()[None])


class Postfilter(nn.Module):
    """`dimts.families.acoustic.postfilter.postfilter`, its transforms as matrices."""

    dct_MM: Tensor
    into_WF: Tensor
    back_FW: Tensor
    gains_MF: Tensor

    def __init__(self, gains_FM: Tensor):
        super().__init__()
        n_mels = gains_FM.shape[1]
        k, m = np.ogrid[:n_mels, :n_mels]
        dct_MM = math.sqrt(2 / n_mels) * np.cos(np.pi * k * (2 * m + 1) / (2 * n_mels))
        dct_MM[0] /= math.sqrt(2)
        hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        bins_WF = np.fft.rfft(np.eye(WINDOW) * hann_W)
        n_bins = bins_WF.shape[1]
        back_FW = np.fft.irfft(np.concatenate([np.eye(n_bins), 1j * np.eye(n_bins)]), WINDOW)
        into_WF = np.concatenate([bins_WF.real, bins_WF.imag], 1)
        for name, matrix in (("dct_MM", dct_MM.T), ("into_WF", into_WF), ("back_FW", back_FW)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(matrix)).float())
        self.register_buffer("gains_MF", torch.cat([gains_FM, gains_FM]).T.contiguous())

    def forward(self, mel_TM: Tensor) -> Tensor:
        """[T, M] -> the same."""
        n = mel_TM.shape[0]
        cepstrum_TM = mel_TM @ self.dct_MM
        mean_M = cepstrum_TM.mean(0)
        overlap, n_windows = WINDOW // HOP, (n + HOP - 1) // HOP + WINDOW // HOP - 1
        first_K1 = torch.arange(n_windows)[:, None] * HOP - (WINDOW - HOP)
        index_KW = (first_K1 + torch.arange(WINDOW)).clamp_min(0).clamp_max(n - 1)
        windows_KMW = (cepstrum_TM - mean_M)[index_KW].transpose(1, 2)
        parts_KMW = (windows_KMW @ self.into_WF * self.gains_MF) @ self.back_FW
        pieces = parts_KMW.transpose(1, 2).unflatten(1, (overlap, HOP))
        total = torch.stack(
            [F.pad(pieces[:, j], (0, 0, 0, 0, j, overlap - 1 - j)) for j in range(overlap)]
        ).sum(0)
        inside_TM = total.flatten(0, 1)[WINDOW - HOP :][:n] / (overlap / 2)
        return (inside_TM + mean_M) @ self.dct_MM.T

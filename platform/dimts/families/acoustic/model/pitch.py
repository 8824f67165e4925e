"""Pitch as a part of T3: predicted for each frame, and shown to the decoder as harmonics.

A decoder that is not told the pitch predicts the mean of all that it could be, and the harmonics
are averaged away. It is shown the mel of a pulse train at F0, which has them where the voice has
them; even those of a wrong F0 keep it from averaging.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.audio.mel import MelConfig, hann_window, mel_filterbank
from dimts.families.acoustic.model.config import PitchConfig
from dimts.families.acoustic.model.convolution import Convolution
from dimts.families.acoustic.model.durations import Predictor

F0_MIN, F0_MAX = 50.0, 800.0
"""Hz, the range that the decoder can be shown."""
ROWS_AN_OCTAVE = 96
N_ROWS = round(math.log2(F0_MAX / F0_MIN) * ROWS_AN_OCTAVE) + 1


class Pitch(NamedTuple):
    """Pitch as predicted.

    Attributes:
        z_BT: float32, log F0 minus its mean, over its standard deviation.
        voicing_BT: float32, logit of being voiced.
    """

    z_BT: Tensor
    voicing_BT: Tensor


class PitchPredictor(Predictor):
    """Pitch of each frame from what its token is."""

    def __init__(self, width: int, config: PitchConfig):
        super().__init__(width, 2, config)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Pitch:
        """[B, T, D], [B, T, 1] -> one pitch a frame."""
        return Pitch(*self.predict(x_BTD, mask_BT1).unbind(-1))


class HarmonicSource(nn.Module):
    """F0 -> what the decoder is shown of it: harmonics, voicing, height.

    Args:
        width: channels of the result.
        n_mels: bins of the mel.
        n_speakers: each has statistics of its own, [S]; 0: one speaker, whose are scalars.
    """

    harmonics_KM: Tensor
    mean: Tensor
    std: Tensor
    gain: Tensor

    def __init__(self, width: int, n_mels: int, n_speakers: int = 0):
        super().__init__()
        self.register_buffer("harmonics_KM", torch.zeros(N_ROWS, n_mels))
        shape = (n_speakers,) if n_speakers else ()
        self.register_buffer("mean", torch.full(shape, math.log(150.0)))
        self.register_buffer("std", torch.full(shape, 0.3))
        self.register_buffer("gain", torch.ones(shape))  # of predicted log F0 around its mean
        self.into = Convolution(n_mels + 2, width, 3)
        for parameter in self.into.parameters():  # a base that knew no pitch begins as it was
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def measure(self, mel: MelConfig, log_f0: Sequence[NDArray[np.float32]]) -> None:
        """Begin with the mel's harmonics and the statistics of a corpus.

        Args:
            mel: that the decoder predicts.
            log_f0: of each speaker, natural log of F0 in Hz, of voiced frames of the training
                split, [n].
        """
        self.harmonics_KM.copy_(torch.from_numpy(harmonic_mels(mel)))
        rows = zip(self.mean.view(-1), self.std.view(-1), log_f0, strict=True)
        for mean, std, of_one in rows:  # views
            if len(of_one) > 1:
                mean.fill_(float(np.mean(of_one, dtype=np.float64)))
                std.fill_(max(float(np.std(of_one, dtype=np.float64)), 0.01))

    def normalise(self, f0_BT: Tensor, speakers_B: Tensor | None = None) -> Tensor:
        """F0 in Hz, 0 where unvoiced -> z-scored log F0, 0 where unvoiced."""
        mean, std = _of(self.mean, speakers_B), _of(self.std, speakers_B)
        z_BT = (f0_BT.clamp_min(1e-3).log() - mean) / std
        return torch.where(f0_BT > 0, z_BT, 0.0)

    def f0(
        self, pitch: Pitch, shift: float | Tensor = 1.0, speakers_B: Tensor | None = None
    ) -> Tensor:
        """Predicted pitch as F0 in Hz, 0 where unvoiced; float32 [B, T].

        Args:
            pitch: as predicted.
            shift: what F0 is multiplied by.
            speakers_B: int64, who speaks, where there are several.
        """
        mean, std, gain = (_of(s, speakers_B) for s in (self.mean, self.std, self.gain))
        z_BT = (pitch.z_BT * gain).clamp(-4, 4)
        f0_BT = (z_BT * std + mean).exp() * shift
        return torch.where(pitch.voicing_BT > 0, f0_BT.clamp(F0_MIN, F0_MAX), 0.0)

    def forward(self, f0_BT: Tensor, speakers_B: Tensor | None = None) -> Tensor:
        """Hz, 0 where unvoiced, float32 [B, T] -> [B, T, D]."""
        voiced_BT1 = (f0_BT > 0).float()[..., None]
        octaves_BT = (f0_BT.clamp(F0_MIN, F0_MAX) / F0_MIN).log2()
        row_BT = (octaves_BT * ROWS_AN_OCTAVE).clamp(0, N_ROWS - 1)
        below_BT = row_BT.floor().long().clamp_max(N_ROWS - 2)
        share_BT1 = (row_BT - below_BT)[..., None]
        harmonics_BTM = torch.lerp(
            F.embedding(below_BT, self.harmonics_KM),
            F.embedding(below_BT + 1, self.harmonics_KM),
            share_BT1,
        )
        z_BT1 = self.normalise(f0_BT, speakers_B)[..., None]
        shown = (harmonics_BTM * voiced_BT1, voiced_BT1, z_BT1)
        return self.into(torch.cat(shown, -1).transpose(1, 2)).transpose(1, 2)


def _of(statistic: Tensor, speakers_B: Tensor | None) -> Tensor:
    """A scalar, or each row's own, [B, 1]."""
    if not statistic.ndim:
        return statistic
    assert speakers_B is not None
    return statistic[speakers_B][:, None]


def harmonic_mels(mel: MelConfig) -> NDArray[np.float32]:
    """Natural-log mel of pulse trains of F0 from 50 to 800 Hz, float32 [K, M].

    Rows are 1/96 octave apart. Of each the mean over its bins is taken away, then the mean of
    each bin over all rows, and all is divided by one standard deviation: what is left is where
    the harmonics are.
    """
    f0_K = F0_MIN * 2 ** (np.arange(N_ROWS) / ROWS_AN_OCTAVE)
    x_S = 2 * np.pi * (np.arange(mel.n_fft) - mel.n_fft / 2) / mel.sample_rate
    half_KS = np.outer(f0_K, x_S / 2)
    n_K1 = np.floor(mel.sample_rate / 2 / f0_K)[:, None]
    # The sum of cos(k x), k = 1 ... n, is sin((n + 1/2) x) / (2 sin(x / 2)) - 1/2.
    sine_KS = np.sin(half_KS)
    ratio_KS = np.sin((2 * n_K1 + 1) * half_KS) / np.where(abs(sine_KS) < 1e-9, 1, 2 * sine_KS)
    pulses_KS = np.where(abs(sine_KS) < 1e-9, n_K1 + 0.5, ratio_KS) - 0.5
    spectra = np.abs(np.fft.rfft(pulses_KS * hann_window(mel), axis=1))
    mels_KM = np.log(np.maximum(spectra @ mel_filterbank(mel).T, mel.floor))
    mels_KM -= mels_KM.mean(axis=1, keepdims=True)
    mels_KM -= mels_KM.mean(axis=0)
    return (mels_KM / mels_KM.std()).astype(np.float32)

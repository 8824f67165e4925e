"""Pulses and noise, each through a filter that a net draws in the spectrum, become speech.

The source-filter model of speech with learned filters (Wang, Takaki & Yamagishi 2019; Engel et al.
2020), computed by inverse STFT as Vocos does (Siuzdak 2023). The filters start as what the mel
itself says of the spectrum's envelope.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.audio.mel import MelConfig, hann_window, mel_filterbank
from dimts.families.vocoder.model.config import GeneratorConfig
from dimts.families.vocoder.model.convnext import Block, FrameWindows
from dimts.families.vocoder.model.excitation import PHASES_A_FRAME, pulse_train
from dimts.families.vocoder.model.pitch_net import Pitch
from dimts.families.vocoder.model.stft import OVERLAP, overlap_add, spectrum

FIRST_KERNEL = 7
SUB_FRAMES = 2
"""Frames of the STFT in one of the mel."""
WINDOW_HOPS = OVERLAP // SUB_FRAMES
HARMONIC_LEVEL, NOISE_LEVEL = -0.3, -1.2
"""Nepers by which the filters start above what the mel says."""
LOG_F0 = 5.0


class Generator(nn.Module):
    """Log magnitude and phase of the pulses' filter, log magnitude of the noise's.

    Args:
        config: sizes.
        mel: spec of the mels; its hop is a multiple of 4.
    """

    window: Tensor
    spread_MF: Tensor
    level_F: Tensor

    def __init__(self, config: GeneratorConfig, mel: MelConfig):
        super().__init__()
        c, self.mel = config, mel
        n_fft = WINDOW_HOPS * mel.hop_length
        self.n_bins = n_fft // 2 + 1
        self.first = FrameWindows(mel.n_mels + 2 * PHASES_A_FRAME + 2, c.channels, FIRST_KERNEL)
        scale = 1 / c.blocks
        self.blocks = nn.Sequential(
            *(Block(c.channels, c.hidden, c.kernel, scale) for _ in range(c.blocks))
        )
        self.last = nn.Linear(c.channels, SUB_FRAMES * 3 * self.n_bins)
        nn.init.normal_(self.last.weight, std=0.1 * c.channels**-0.5)
        own = mel.model_copy(update={"n_fft": n_fft, "win_length": n_fft})
        spread, level = envelope(mel, self.n_bins)
        self.register_buffer("window", torch.from_numpy(hann_window(own)), persistent=False)
        self.register_buffer("spread_MF", spread, persistent=False)
        self.register_buffer("level_F", level, persistent=False)
        # Of white noise of unit power the windows that overlap are alike; those drawn here are not.
        noise_scale = math.sqrt(float(self.window.square().sum()) / 2) * OVERLAP / 2
        with torch.no_grad():
            bias = self.last.bias.view(SUB_FRAMES, 3, self.n_bins)
            bias[:, 0], bias[:, 1] = HARMONIC_LEVEL, 0.0
            bias[:, 2] = NOISE_LEVEL + math.log(noise_scale)
        self.reach_frames = FIRST_KERNEL // 2 + c.blocks * (c.kernel // 2) + WINDOW_HOPS

    def forward(
        self, mel_BTM: Tensor, shown_BTM: Tensor, pitch: Pitch, cycles_BT: Tensor, noise: Tensor
    ) -> Tensor:
        """Samples, [B, T * hop]; the first of a frame's is its centre in the mel.

        Args:
            mel_BTM: natural-log mel.
            shown_BTM: the same, normalised.
            pitch: of each frame.
            cycles_BT: of F0 at each frame, see `cycles_at_frames`.
            noise: standard normal [B, T * SUB_FRAMES, 2, n_bins], real and imaginary parts.
        """
        hop, rate = self.mel.hop_length, self.mel.sample_rate
        pulses = pulse_train(pitch, cycles_BT, hop, rate)
        told_BT2 = torch.stack([pitch.f0_BT.log() - LOG_F0, torch.ones_like(pitch.f0_BT)], -1)
        told_BT2 = told_BT2 * pitch.voiced_BT[..., None]
        x_BTD = self.first(torch.cat([shown_BTM, pulses.phase_BTP, told_BT2], -1)).float()
        x_BTD = self.blocks(x_BTD)
        drawn = self.last(F.layer_norm(x_BTD, x_BTD.shape[-1:])).float()
        with torch.autocast(mel_BTM.device.type, enabled=False):
            return self._shape(drawn, self._envelope(mel_BTM), pulses.wave_BS, noise)

    def _shape(
        self, drawn: Tensor, envelope_BKF: Tensor, pulses_BS: Tensor, noise: Tensor
    ) -> Tensor:
        """The wave of what the net has drawn, [B, T, SUB_FRAMES * 3 * n_bins], in float32."""
        b, t, _ = drawn.shape
        drawn = drawn.view(b, t * SUB_FRAMES, 3, self.n_bins)
        gain = (drawn[:, :, 0] + envelope_BKF).exp_()
        noise_gain = (drawn[:, :, 2] + envelope_BKF).exp_()
        phase = drawn[:, :, 1]
        turned, across = gain * phase.cos(), gain * phase.sin()
        bins = spectrum(pulses_BS, self.window)
        real = (noise_gain * noise[:, :, 0]).addcmul_(turned, bins.real)
        real = real.addcmul_(across, bins.imag, value=-1)
        imaginary = (noise_gain * noise[:, :, 1]).addcmul_(turned, bins.imag)
        imaginary = imaginary.addcmul_(across, bins.real)
        return overlap_add(torch.complex(real, imaginary), self.window)

    def _envelope(self, mel_BTM: Tensor) -> Tensor:
        """Log gain of each bin that the mel speaks of, [B, T * SUB_FRAMES, n_bins]."""
        here = mel_BTM @ self.spread_MF + self.level_F
        after = torch.cat([here[:, 1:], here[:, -1:]], 1)
        return torch.stack([here, (here + after) / 2], 2).flatten(1, 2)


def envelope(mel: MelConfig, n_bins: int) -> tuple[Tensor, Tensor]:
    """A log mel spread over bins: weights [M, F] and what is added, [F].

    Each bin takes from the two mel bins around it. What is added turns magnitudes of the mel's
    window into the gain of a signal of unit power.
    """
    filters_MF = mel_filterbank(mel).astype(np.float64)
    area_M = filters_MF.sum(1)
    hz = np.linspace(0, mel.sample_rate / 2, mel.n_bins)
    centre_M = filters_MF @ hz / area_M
    bins_hz = np.linspace(0, mel.sample_rate / 2, n_bins)
    spread_MF = np.stack([np.interp(bins_hz, centre_M, row) for row in np.eye(mel.n_mels)])
    power = np.square(hann_window(mel).astype(np.float64)).sum()
    level_F = -np.log(area_M) @ spread_MF - 0.5 * np.log(power)
    return torch.from_numpy(spread_MF).float(), torch.from_numpy(level_F).float()

"""How far generated waves are from recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.audio.mel import MelConfig, hann_window, log_mel_torch
from dimts.families.vocoder.model.stft import magnitudes

WINDOWS = (256, 512, 1024, 2048)
"""Samples of the STFTs that are compared."""
SILENCE = 3e-5
"""Below the power of noise of this size, -90 dB, differences count for little."""
LEAST_SHARE = 30.0
"""Times silence that a recording counts at least, where errors are a share of it."""
CONVERGENCE = 0.5

Spectra = Mapping[int, Tensor]
"""Magnitudes, [B, T, F], by the window's samples."""


class SpectralDistance(nn.Module):
    """Magnitudes at several resolutions (Yamamoto, Song & Kim 2020) and the log mel.

    Args:
        mel: of which spec.
        more: windows beside `WINDOWS` of which spectra are wanted, too.
    """

    def __init__(self, mel: MelConfig, more: Sequence[int] = ()):
        super().__init__()
        self.mel = mel
        self.sizes = sorted({*WINDOWS, *more})
        for n in self.sizes:
            own = MelConfig(sample_rate=192_000, n_fft=n, win_length=n, hop_length=1, n_mels=1)
            self.register_buffer(f"window_{n}", torch.from_numpy(hann_window(own)), False)

    def spectra(self, wave_BS: Tensor, sizes: Sequence[int] | None = None) -> Spectra:
        """Magnitudes of waves longer than half of each window, at all resolutions or some."""
        found = {}
        for n in sizes or self.sizes:
            window: Tensor = getattr(self, f"window_{n}")
            found[n] = magnitudes(wave_BS, window, SILENCE * _noise(window))
        return found

    def stft(self, made: Spectra, recorded: Spectra) -> Tensor:
        """Of each utterance, [B]: mean absolute error of log magnitudes, in nepers, and half the
        error of magnitudes as a share of the recording's, mean over resolutions."""
        losses = []
        for n in WINDOWS:
            ours, theirs = made[n], recorded[n]
            logs = (ours.log() - theirs.log()).abs().flatten(1).mean(1)
            least = LEAST_SHARE * SILENCE * _noise(getattr(self, f"window_{n}"))
            size = theirs.square().flatten(1).mean(1).sqrt() + least
            error = (ours - theirs).square().flatten(1).mean(1).add(1e-12).sqrt()
            losses.append(logs + CONVERGENCE * error / size)
        return torch.stack(losses).mean(0)

    def mel_error(self, made_BS: Tensor, recorded_BS: Tensor) -> Tensor:
        """Mean absolute error of the log mel, in nepers, of each utterance, [B]."""
        ours, theirs = (log_mel_torch(wave, self.mel) for wave in (made_BS, recorded_BS))
        return F.l1_loss(ours, theirs, reduction="none").flatten(1).mean(1)


def _noise(window: Tensor) -> float:
    """Magnitude of white noise of unit power."""
    return float(window.square().sum().sqrt())

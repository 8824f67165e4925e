"""Chatterbox's voice encoder: what a voice sounds like as 256 numbers.

Three LSTM layers over 40 mels (Wan et al., ICASSP 2018), as chatterbox-tts has it, with its state
dict: ``lstm.*``, ``proj.*`` and two scalars that only its training used.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dimts.audio.mel import Float32Array, MelConfig, mel_filterbank

MEL = MelConfig(
    sample_rate=16_000, n_fft=400, hop_length=160, win_length=400, n_mels=40, f_max=8000
)
"""Its filterbank and windows; the mel itself is of powers, without a logarithm."""
PARTIAL = 160
"""Frames that the LSTM hears at a time."""
STEP = round(MEL.sample_rate / 1.3 / PARTIAL)
"""Frames between two of them: 1.3 a second."""
COVERAGE = 0.8
"""Share of a last partial that has to be speech for it to count."""
TRIM_DB, TRIM_FRAME, TRIM_HOP = 20, 2048, 512
"""Quieter than the loudest frame, samples: silence at either end, which is not heard."""
WIDTH = 256


class VoiceEncoder(nn.Module):
    """Wave to a voice's vector."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL.n_mels, WIDTH, num_layers=3, batch_first=True)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.similarity_weight = nn.Parameter(torch.tensor([10.0]))
        self.similarity_bias = nn.Parameter(torch.tensor([-5.0]))

    def forward(self, mel_PTM: Tensor) -> Tensor:
        """Mels of partials to vectors of norm 1, [P, 256]."""
        _, (hidden, _) = self.lstm(mel_PTM)
        return F.normalize(self.proj(hidden[-1]).relu(), dim=1)

    @torch.inference_mode()
    def embed(self, wave: Float32Array) -> Float32Array:
        """The vector of a wave at 16 kHz, of norm 1, [256]."""
        mel_TM = power_mel(torch.from_numpy(trimmed(wave))).to(self.proj.weight.device)
        n, rest = divmod(max(len(mel_TM) - PARTIAL + STEP, 0), STEP)
        if n == 0 or (rest + PARTIAL - STEP) / PARTIAL >= COVERAGE:
            n += 1
        missing = PARTIAL + STEP * (n - 1) - len(mel_TM)
        mel_TM = F.pad(mel_TM, (0, 0, 0, max(0, missing)))
        partials = mel_TM.unfold(0, PARTIAL, STEP)[:n].transpose(1, 2)
        return F.normalize(self(partials).mean(0), dim=0).cpu().numpy()


def trimmed(wave: Float32Array) -> Float32Array:
    """The wave without silence at its ends, as ``librosa.effects.trim`` gives it; that function
    takes seconds to be compiled."""
    padded = np.pad(wave, TRIM_FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, TRIM_FRAME)[::TRIM_HOP]
    power = np.einsum("ij,ij->i", frames, frames) / TRIM_FRAME
    (loud,) = np.nonzero(power > power.max() * 10 ** (-TRIM_DB / 10))
    return wave[loud[0] * TRIM_HOP : (loud[-1] + 1) * TRIM_HOP] if len(loud) else wave


def power_mel(wave: Tensor) -> Tensor:
    """Mel of powers, [T, 40]; centred frames, edges reflected."""
    window, filters = _constants()
    padded = F.pad(wave[None], (MEL.n_fft // 2, MEL.n_fft // 2), mode="reflect")[0]
    spectrum = torch.stft(
        padded, MEL.n_fft, MEL.hop_length, window=window, center=False, return_complex=True
    )
    return (filters @ spectrum.abs().square()).T


@lru_cache(maxsize=1)
def _constants() -> tuple[Tensor, Tensor]:
    return torch.hann_window(MEL.win_length), torch.from_numpy(mel_filterbank(MEL).copy())

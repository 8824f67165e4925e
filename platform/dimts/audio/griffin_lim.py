"""Griffin-Lim: a mel becomes a wave, without a trained vocoder."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from dimts.audio.mel import Float32Array, MelConfig, hann_window, mel_filterbank

_SMALLEST = 1e-8  # keeps the phase of a silent bin defined
_LOUDEST_LOG_MEL = 20.0  # full scale stays below 6; much beyond this float32 would overflow
_PEAK = 0.99
_MOMENTUM = 0.99
_OVERSHOOT = _MOMENTUM / (1 + _MOMENTUM)
"""Of each round; 0 would be the original algorithm of 1984."""


def griffin_lim(mel_TM: npt.ArrayLike, config: MelConfig, n_iter: int = 32) -> Float32Array:
    """A wave whose mel is close to `mel_TM`, float32 [(T - 1) * hop_length] in [-1, 1].

    The fast Griffin-Lim algorithm of Perraudin, Balazs and Sondergaard (2013): magnitudes come
    from the filterbank's pseudo-inverse, phases from `n_iter` rounds of inverting the STFT and
    taking it again. The same arguments give the same wave on the same machine. The wave is
    scaled down only where it would clip.

    Args:
        mel_TM: natural-log magnitude mel [T, n_mels], as `log_mel` makes it; at least 2 frames.
        config: the spec the mel was made with.
        n_iter: rounds; 0 leaves the random phases of the start.

    Raises:
        ValueError: the mel's shape does not fit, or a value is not finite.
    """
    mel = np.asarray(mel_TM, dtype=np.float32)
    if mel.ndim != 2 or mel.shape[1] != config.n_mels or mel.shape[0] < 2:
        raise ValueError(f"mel must be [T >= 2, {config.n_mels}], not {list(mel.shape)}")
    if not np.isfinite(mel).all():
        raise ValueError("mel holds NaN or infinite values")
    # What is too short to be reflected at its edges is made longer.
    lacking = max(0, config.n_fft // (2 * config.hop_length) + 2 - len(mel))
    linear_mel = np.exp(np.minimum(np.pad(mel, ((0, lacking), (0, 0)), "edge"), _LOUDEST_LOG_MEL))
    magnitude_TF = np.maximum(linear_mel @ _inverse_filterbank(config), np.float32(_SMALLEST))
    magnitude_FT = torch.from_numpy(magnitude_TF.T)
    frames = config.n_fft, config.hop_length, config.n_fft, torch.from_numpy(hann_window(config))
    generator = torch.Generator().manual_seed(0)
    phase_FT = 2 * torch.pi * torch.rand(magnitude_TF.shape, generator=generator).T
    wave_S = torch.istft(torch.polar(magnitude_FT, phase_FT), *frames)
    previous_FT = torch.zeros(magnitude_FT.shape, dtype=torch.complex64)
    for _ in range(n_iter):
        spectrum_FT = torch.stft(wave_S, *frames, return_complex=True)
        ahead_FT = spectrum_FT - _OVERSHOOT * previous_FT
        wave_S = torch.istft(ahead_FT * (magnitude_FT / (ahead_FT.abs() + 1e-16)), *frames)
        previous_FT = spectrum_FT
    wave = wave_S.numpy()[: (len(mel) - 1) * config.hop_length]
    peak = np.abs(wave).max()
    return wave * np.float32(_PEAK / peak) if peak > 1 else wave


@lru_cache(maxsize=8)
def _inverse_filterbank(config: MelConfig) -> Float32Array:
    """Pseudo-inverse of the filterbank [M, F]; as good as non-negative least squares here."""
    inverse = np.linalg.pinv(mel_filterbank(config).astype(np.float64))
    return np.ascontiguousarray(inverse.T, dtype=np.float32)

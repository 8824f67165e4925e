"""Griffin-Lim: a mel becomes a wave, without a trained vocoder."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import torch

from dimts.audio.mel import Float32Array, MelConfig, hann_window, mel_filterbank
from dimts.audio.mel_kernel import CHUNK_FRAMES, window_frames

_SMALLEST = 1e-8  # keeps the phase of a silent bin defined
_LOUDEST_LOG_MEL = 20.0  # full scale stays below 6; much beyond this float32 would overflow
_PEAK = 0.99
_MOMENTUM = 0.99
_OVERSHOOT = np.float32(_MOMENTUM / (1 + _MOMENTUM))
"""Of each round; 0 would be the original algorithm of 1984."""


def griffin_lim(mel_TM: npt.ArrayLike, config: MelConfig, n_iter: int = 32) -> Float32Array:
    """A wave whose mel is close to `mel_TM`, float32 [(T - 1) * hop_length] in [-1, 1].

    The fast Griffin-Lim algorithm of Perraudin, Balazs and Sondergaard (2013): magnitudes come
    from the filterbank's pseudo-inverse, phases from `n_iter` rounds of inverting the STFT and
    taking it again. The same arguments give the same wave on the same machine. The wave is
    scaled down only where it would clip. With the kernels of the mel it takes 0.4 of the time that
    `torch.stft` and `torch.istft` take.

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
    linear_mel = np.exp(np.minimum(mel, _LOUDEST_LOG_MEL))
    magnitude_TF = np.maximum(linear_mel @ _inverse_filterbank(config), np.float32(_SMALLEST))
    generator = torch.Generator().manual_seed(0)
    phase_TF = 2 * torch.pi * torch.rand(magnitude_TF.shape, generator=generator)
    spectrum_TF = torch.polar(torch.from_numpy(magnitude_TF), phase_TF)
    previous_TF = np.zeros(magnitude_TF.shape, np.complex64)
    for _ in range(n_iter):
        wave = _inverse_stft(spectrum_TF, config)
        _advance(wave, spectrum_TF, previous_TF, magnitude_TF, config)
    wave = _inverse_stft(spectrum_TF, config)
    peak = np.abs(wave).max()
    return wave * np.float32(_PEAK / peak) if peak > 1 else wave


@lru_cache(maxsize=8)
def _inverse_filterbank(config: MelConfig) -> Float32Array:
    """Pseudo-inverse of the filterbank [M, F]; as good as non-negative least squares here."""
    inverse = np.linalg.pinv(mel_filterbank(config).astype(np.float64))
    return np.ascontiguousarray(inverse.T, dtype=np.float32)


def _inverse_stft(spectrum_TF: torch.Tensor, config: MelConfig) -> Float32Array:
    """The wave whose STFT is nearest to the spectrum, [(T - 1) * hop_length]."""
    n_frames = len(spectrum_TF)
    window = hann_window(config)
    wave = np.zeros((n_frames - 1) * config.hop_length, np.float32)
    for start in range(0, n_frames, CHUNK_FRAMES):
        frames = torch.fft.irfft(spectrum_TF[start : start + CHUNK_FRAMES], n=config.n_fft)
        _overlap_add(frames.numpy(), window, config.hop_length, start, wave)
    wave *= _overlap_gain(config, n_frames)
    return wave


@lru_cache(maxsize=8)
def _overlap_gain(config: MelConfig, n_frames: int) -> Float32Array:
    """One over the sum of squared windows at each sample, [(T - 1) * hop_length]."""
    window = hann_window(config)
    total = np.zeros((n_frames - 1) * config.hop_length, np.float32)
    windows = np.broadcast_to(window, (n_frames, config.n_fft))
    _overlap_add(np.ascontiguousarray(windows), window, config.hop_length, 0, total)
    return np.reciprocal(np.maximum(total, np.float32(1e-6)), dtype=np.float32)


def _advance(
    wave: Float32Array,
    spectrum_TF: torch.Tensor,
    previous_TF: npt.NDArray[np.complex64],
    magnitude_TF: Float32Array,
    config: MelConfig,
) -> None:
    """One round: phases of the wave's own STFT, overshot, under the wanted magnitudes."""
    window = hann_window(config)
    frames = torch.empty(CHUNK_FRAMES, config.n_fft)
    for start in range(0, len(spectrum_TF), CHUNK_FRAMES):
        here = slice(start, start + CHUNK_FRAMES)
        n = len(magnitude_TF[here])
        window_frames(wave, window, config.hop_length, start, frames.numpy()[:n])
        torch.fft.rfft(frames[:n], out=spectrum_TF[here])
        _overshoot(spectrum_TF[here].numpy(), previous_TF[here], magnitude_TF[here], _OVERSHOOT)


@numba.njit(cache=True, nogil=True)
def _overlap_add(
    frames: Float32Array, window: Float32Array, hop: int, first_frame: int, wave: Float32Array
) -> None:
    """Add the windowed frames [n, n_fft] to the wave, without what lies outside of it."""
    n_fft = len(window)
    for t in range(len(frames)):
        start = (first_frame + t) * hop - n_fft // 2
        skipped = max(0, -start)
        inside = wave[max(0, start) : start + n_fft]
        frame = frames[t, skipped:]
        weight = window[skipped:]
        for i in range(len(inside)):
            inside[i] += frame[i] * weight[i]


# numpy's error model: a check for division by zero would keep the loop from using vectors.
@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "arcp", "afn"})
def _overshoot(
    spectrum_TF: npt.NDArray[np.complex64],
    previous_TF: npt.NDArray[np.complex64],
    magnitude_TF: Float32Array,
    overshoot: np.float32,
) -> None:
    """In place: spectrum - overshoot * previous, under the wanted magnitudes."""
    for t in range(spectrum_TF.shape[0]):
        for k in range(spectrum_TF.shape[1]):
            new = spectrum_TF[t, k]
            old = previous_TF[t, k]
            re = new.real - overshoot * old.real
            im = new.imag - overshoot * old.imag
            scale = magnitude_TF[t, k] / (np.sqrt(re * re + im * im) + np.float32(1e-16))
            previous_TF[t, k] = new
            spectrum_TF[t, k] = complex(re * scale, im * scale)

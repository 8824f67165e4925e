"""How `log_mel` is fast on one core.

An utterance is cut into chunks of frames that stay in the cache: window, FFT (torch), then
magnitude and filterbank in one compiled pass. Magnitudes are ``sqrt(re^2 + im^2)`` (no
overflow-proof complex abs), only for the frequencies that some mel bin uses, and only the
non-zero weights of the filterbank are multiplied. Neither a padded copy of the wave nor the
spectrum of a whole utterance ever exists.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import torch

from dimts.audio.mel import Float32Array, MelConfig, hann_window, mel_filterbank

CHUNK_FRAMES = 96  # with their spectrum 0.8 MB: the second-level cache of one core

# Without `nnan` and `ninf`, on purpose: NaN in a wave must reach the mel.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp", "afn"}


def chunked_log_mel(wave: Float32Array, config: MelConfig) -> Float32Array:
    """See `dimts.audio.mel.log_mel`; `wave` is contiguous and not empty."""
    window, bands = hann_window(config), _bands(config)
    windowed, spectrum = _buffers(config.n_fft, threading.get_ident())
    frames, bins = windowed.numpy(), spectrum.numpy()
    n_frames = config.n_frames(len(wave))
    mel_TM = np.empty((n_frames, config.n_mels), np.float32)
    for start in range(0, n_frames, CHUNK_FRAMES):
        n = min(CHUNK_FRAMES, n_frames - start)
        window_frames(wave, window, config.hop_length, start, frames[:n])
        torch.fft.rfft(windowed[:n], out=spectrum[:n])
        band_magnitudes(bins[:n], *bands, mel_TM[start : start + n])
    np.maximum(mel_TM, np.float32(config.floor), out=mel_TM)
    return np.log(mel_TM, out=mel_TM)


@lru_cache(maxsize=32)
def _buffers(n_fft: int, thread: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A thread's windowed frames and their spectrum: fresh ones would cost page faults."""
    return (
        torch.empty(CHUNK_FRAMES, n_fft),
        torch.empty(CHUNK_FRAMES, n_fft // 2 + 1, dtype=torch.complex64),
    )


@lru_cache(maxsize=8)
def _bands(
    config: MelConfig,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]:
    """Non-zero part of each filter: its first frequency, offsets into the weights, weights."""
    first, weights = [], []
    for row in mel_filterbank(config):
        used = np.flatnonzero(row)
        first.append(used[0])
        weights.append(row[used[0] : used[-1] + 1])
    offset = np.cumsum([0, *map(len, weights)])
    return np.array(first, np.int64), offset.astype(np.int64), np.concatenate(weights)


@numba.njit(cache=True, nogil=True, fastmath=_FASTMATH)
def window_frames(
    wave: Float32Array,
    window: Float32Array,
    hop: int,
    first_frame: int,
    frames: Float32Array,
) -> None:
    """Fill `frames` [n, n_fft] from `first_frame` on, the wave's edges reflected."""
    n_fft = len(window)
    period = max(1, 2 * (len(wave) - 1))
    for t in range(len(frames)):
        start = (first_frame + t) * hop - n_fft // 2
        if start >= 0 and start + n_fft <= len(wave):
            for i in range(n_fft):
                frames[t, i] = wave[start + i] * window[i]
        else:
            for i in range(n_fft):
                sample = (start + i) % period
                if sample >= len(wave):
                    sample = period - sample
                frames[t, i] = wave[sample] * window[i]


@numba.njit(cache=True, nogil=True, fastmath=_FASTMATH)
def band_magnitudes(
    spectrum: npt.NDArray[np.complex64],
    first: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    weights: Float32Array,
    mel_TM: Float32Array,
) -> None:
    """`mel_TM[t, m]` = sum over the band of m of weight * magnitude.

    Four frames go together: bands are too short for vectors, and four sums at a time hide how
    long one addition waits for the last. The last frames are repeated to make up four.
    """
    n_frames, n_mels = len(spectrum), len(first)
    used = first[n_mels - 1] + offset[n_mels] - offset[n_mels - 1]
    magnitude = np.empty((4, used), np.float32)
    for t in range(0, n_frames, 4):
        for lane in range(4):
            frame = min(t + lane, n_frames - 1)
            for k in range(used):
                z = spectrum[frame, k]
                magnitude[lane, k] = np.sqrt(z.real * z.real + z.imag * z.imag)
        for m in range(n_mels):
            sum0 = sum1 = sum2 = sum3 = np.float32(0)
            begin = offset[m]
            low = first[m]
            for k in range(offset[m + 1] - begin):
                weight = weights[begin + k]
                sum0 += weight * magnitude[0, low + k]
                sum1 += weight * magnitude[1, low + k]
                sum2 += weight * magnitude[2, low + k]
                sum3 += weight * magnitude[3, low + k]
            mel_TM[t, m] = sum0
            mel_TM[min(t + 1, n_frames - 1), m] = sum1
            mel_TM[min(t + 2, n_frames - 1), m] = sum2
            mel_TM[min(t + 3, n_frames - 1), m] = sum3

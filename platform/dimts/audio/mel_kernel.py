"""How `log_mel` is fast on one core.

An utterance is cut into chunks of frames that stay in the cache: window, FFT (torch), then
magnitude and filterbank in one compiled pass. Magnitudes are ``sqrt(re^2 + im^2)`` (no
overflow-proof complex abs), only for the frequencies that some mel bin uses, and only the
non-zero weights of the filterbank are multiplied.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
import torch

from dimts.audio.mel import Float32Array, MelConfig, hann_window, mel_filterbank, reflection

CHUNK_FRAMES = 64

# `nnan` and `ninf` are left out on purpose: NaN in a wave must reach the mel.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp", "afn"}


@lru_cache(maxsize=8)
def mel_plan(config: MelConfig) -> MelPlan:
    """The plan for `config`, made once a process."""
    return MelPlan(config)


class MelPlan:
    """Window, filterbank and scratch memory for one `MelConfig`; safe to share by threads."""

    def __init__(self, config: MelConfig) -> None:
        self.config = config
        self._window = torch.from_numpy(hann_window(config))
        self._first, self._offset, self._weights = _bands(mel_filterbank(config))
        self._scratch = threading.local()

    def log_mel(self, wave: Float32Array) -> Float32Array:
        """See `dimts.audio.mel.log_mel`; `wave` is contiguous and not empty."""
        config = self.config
        padded = torch.from_numpy(wave[reflection(len(wave), config.n_fft // 2)])
        frames = padded.unfold(0, config.n_fft, config.hop_length)
        windowed, spectrum = self._buffers()
        mel_TM = np.empty((frames.shape[0], config.n_mels), np.float32)
        for start in range(0, len(mel_TM), CHUNK_FRAMES):
            chunk = frames[start : start + CHUNK_FRAMES]
            n = chunk.shape[0]
            torch.mul(chunk, self._window, out=windowed[:n])
            torch.fft.rfft(windowed[:n], out=spectrum[:n])
            band_magnitudes(
                torch.view_as_real(spectrum[:n]).numpy(),
                self._first,
                self._offset,
                self._weights,
                mel_TM[start : start + n],
            )
        np.maximum(mel_TM, np.float32(config.floor), out=mel_TM)
        return np.log(mel_TM, out=mel_TM)

    def _buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Windowed frames and their spectrum; fresh memory would cost page faults each call."""
        if not hasattr(self._scratch, "buffers"):
            self._scratch.buffers = (
                torch.empty(CHUNK_FRAMES, self.config.n_fft),
                torch.empty(CHUNK_FRAMES, self.config.n_bins, dtype=torch.complex64),
            )
        buffers: tuple[torch.Tensor, torch.Tensor] = self._scratch.buffers
        return buffers


def _bands(
    filterbank: Float32Array,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]:
    """Non-zero part of each filter: its first frequency, offsets into the weights, weights."""
    first, weights = [], []
    for row in filterbank:
        used = np.flatnonzero(row)
        first.append(used[0])
        weights.append(row[used[0] : used[-1] + 1])
    offset = np.cumsum([0, *map(len, weights)])
    return np.array(first, np.int64), offset.astype(np.int64), np.concatenate(weights)


@numba.njit(cache=True, nogil=True, fastmath=_FASTMATH)
def band_magnitudes(
    spectrum: Float32Array,
    first: npt.NDArray[np.int64],
    offset: npt.NDArray[np.int64],
    weights: Float32Array,
    mel_TM: Float32Array,
) -> None:
    """`mel_TM[t, m]` = sum over the band of m of weight * magnitude; spectrum [T, F, 2]."""
    n_mels = len(first)
    used = first[n_mels - 1] + offset[n_mels] - offset[n_mels - 1]
    magnitude = np.empty(used, np.float32)
    for t in range(spectrum.shape[0]):
        for k in range(used):
            re = spectrum[t, k, 0]
            im = spectrum[t, k, 1]
            magnitude[k] = np.sqrt(re * re + im * im)
        for m in range(n_mels):
            total = np.float32(0)
            begin = offset[m]
            low = first[m]
            for k in range(offset[m + 1] - begin):
                total += weights[begin + k] * magnitude[low + k]
            mel_TM[t, m] = total

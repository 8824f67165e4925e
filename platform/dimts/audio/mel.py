"""The one mel of the project: natural-log magnitude mel, as librosa computes it, but faster.

    log(max(filterbank @ |STFT(wave)|, floor))

with a centred STFT (reflected edges, periodic Hann window) and Slaney's filterbank with
Slaney's normalisation. Data preparation, evaluation and synthesis all call this module.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dimts.core.config import Config

if TYPE_CHECKING:  # importing torch takes a second, and a config alone does not need it
    import torch

Float32Array = npt.NDArray[np.float32]

# Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998).
_HZ_PER_MEL = 200.0 / 3
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


class MelConfig(Config):
    """What a mel is made of; it travels with features and with each voice."""

    sample_rate: int = Field(default=22050, ge=4000, le=192_000, description="Hz")
    n_fft: int = Field(default=1024, ge=16, le=65_536, multiple_of=2, description="samples a frame")
    hop_length: int = Field(default=256, ge=1, description="samples between frames")
    win_length: int = Field(
        default=1024, ge=2, description="samples the window covers, centred in n_fft"
    )
    n_mels: int = Field(default=80, ge=1, le=1024)
    f_min: float = Field(default=0.0, ge=0, description="Hz, lower edge of the first bin")
    f_max: float = Field(default=8000.0, gt=0, description="Hz, upper edge of the last bin")
    floor: float = Field(default=1e-5, gt=0, description="smallest magnitude before the logarithm")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} must not exceed n_fft {self.n_fft}")
        if self.hop_length >= self.win_length:  # whose first sample has the weight 0
            raise ValueError(
                f"hop_length {self.hop_length} must be below win_length {self.win_length}: "
                "samples between two frames would be lost"
            )
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min {self.f_min:g} < f_max {self.f_max:g} <= sample_rate / 2 "
                f"({self.sample_rate / 2:g}) must hold"
            )
        if not mel_filterbank(self).any(axis=1).all():
            raise ValueError(
                f"n_mels {self.n_mels} is too many for n_fft {self.n_fft}: "
                "some mel bins would cover no frequency; lower n_mels or raise n_fft"
            )
        return self

    @property
    def n_bins(self) -> int:
        """Frequencies of the STFT."""
        return self.n_fft // 2 + 1

    def n_frames(self, n_samples: int) -> int:
        """Frames of a wave of `n_samples`."""
        return 1 + n_samples // self.hop_length


@lru_cache(maxsize=32)
def mel_filterbank(config: MelConfig) -> Float32Array:
    """Slaney's triangles of equal area, float32 [n_mels, n_fft // 2 + 1], read-only.

    Equal to ``librosa.filters.mel(htk=False, norm="slaney")``.
    """
    fft_hz = np.fft.rfftfreq(config.n_fft, 1.0 / config.sample_rate)
    edges = np.linspace(_hz_to_mel(config.f_min), _hz_to_mel(config.f_max), config.n_mels + 2)
    edges_hz = _mel_to_hz(edges)
    widths = np.diff(edges_hz)
    ramps = edges_hz[:, None] - fft_hz[None, :]
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filterbank = (triangles * area[:, None]).astype(np.float32)
    filterbank.flags.writeable = False
    return filterbank


def log_mel(wave: npt.ArrayLike, config: MelConfig) -> Float32Array:
    """Natural-log magnitude mel of one utterance on one core, float32 [T, n_mels].

    The wave is float [n_samples], mono, at ``config.sample_rate``, in [-1, 1].
    T is ``1 + n_samples // hop_length``: frame t is centred on sample ``t * hop_length``. The
    edges are reflected, as often as a short wave needs. NaN or Inf in the wave reach the mel.

    Raises:
        ValueError: the wave is empty, not one-dimensional or not of floats.
    """
    from dimts.audio.mel_kernel import chunked_log_mel

    array = np.asarray(wave)
    # Integers are refused, too: their scale is unknown.
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            "wave must be a non-empty one-dimensional array of floats, "
            f"not {array.dtype} {list(array.shape)}"
        )
    return chunked_log_mel(np.ascontiguousarray(array, dtype=np.float32), config)


def log_mel_torch(waves: torch.Tensor, config: MelConfig) -> torch.Tensor:
    """`log_mel` of equally long waves on their device, within 1e-3 of it.

    float32 [B, n_samples] -> float32 [B, T, n_mels]. If lengths differ, pad before and cut frames
    afterwards.
    """
    import torch

    # Unlike torch's padding, numpy's goes to and fro as often as a short wave needs.
    index = np.pad(np.arange(waves.shape[-1]), config.n_fft // 2, mode="reflect")
    window = torch.from_numpy(hann_window(config)).to(waves.device)
    spectrum = torch.stft(
        waves[:, torch.from_numpy(index).to(waves.device)],
        config.n_fft,
        config.hop_length,
        window=window,
        center=False,
        return_complex=True,
    )
    filterbank = torch.from_numpy(mel_filterbank(config).copy()).to(waves.device)
    mel_BTM = spectrum.abs().transpose(1, 2) @ filterbank.T
    return mel_BTM.clamp_min(config.floor).log()


@lru_cache(maxsize=32)
def hann_window(config: MelConfig) -> Float32Array:
    """Periodic Hann window of `win_length` in the middle of `n_fft` zeros, float32 [n_fft]."""
    phase = 2 * np.pi * np.arange(config.win_length) / config.win_length
    window = np.zeros(config.n_fft, np.float32)
    start = (config.n_fft - config.win_length) // 2
    window[start : start + config.win_length] = 0.5 - 0.5 * np.cos(phase)
    return window


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _HZ_PER_MEL
    return _LOG_START_MEL + math.log(hz / _LOG_START_HZ) / _LOG_STEP


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _LOG_START_HZ * np.exp(_LOG_STEP * (mel - _LOG_START_MEL))
    return np.where(mel < _LOG_START_MEL, mel * _HZ_PER_MEL, above)

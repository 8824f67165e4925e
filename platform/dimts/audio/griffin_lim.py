"""Griffin-Lim: a mel becomes a wave, without a trained vocoder."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from dimts.audio.mel import Float32Array, MelConfig, hann_window, mel_filterbank, reflection

_SMALLEST = 1e-8  # keeps the phase of a silent bin defined
_PEAK = 0.99


def griffin_lim(
    mel_TM: npt.ArrayLike,
    config: MelConfig,
    n_iter: int = 32,
    momentum: float = 0.99,
    seed: int = 0,
) -> Float32Array:
    """A wave whose mel is close to `mel_TM`, float32 [(T - 1) * hop_length] in [-1, 1].

    The fast Griffin-Lim algorithm of Perraudin, Balazs and Sondergaard (2013): magnitudes come
    from the filterbank's pseudo-inverse, phases from `n_iter` rounds of inverting the STFT and
    taking it again. The same arguments and number of threads give the same wave. The wave is
    scaled down only where it would clip.

    Args:
        mel_TM: natural-log magnitude mel [T, n_mels], as `log_mel` makes it; at least 2 frames.
        config: the spec the mel was made with.
        n_iter: rounds; 0 leaves the random phases of the start.
        momentum: how far each round overshoots; 0 is the original algorithm of 1984.
        seed: of the random phases of the start.

    Raises:
        ValueError: the mel's shape does not fit, a value is not finite, or a setting is out of
            range.
    """
    mel = np.asarray(mel_TM, dtype=np.float32)
    if mel.ndim != 2 or mel.shape[1] != config.n_mels or mel.shape[0] < 2:
        raise ValueError(f"mel must be [T >= 2, {config.n_mels}], not {list(mel.shape)}")
    if not np.isfinite(mel).all():
        raise ValueError("mel holds NaN or infinite values")
    if n_iter < 0 or not 0 <= momentum < 1:
        raise ValueError(f"n_iter {n_iter} must be >= 0 and momentum {momentum:g} in [0, 1)")
    with torch.inference_mode():
        wave = _reconstruct(_linear_magnitude(mel, config), config, n_iter, momentum, seed).numpy()
    peak = np.abs(wave).max()
    return wave * np.float32(_PEAK / peak) if peak > 1 else wave


def _linear_magnitude(mel_TM: Float32Array, config: MelConfig) -> torch.Tensor:
    """STFT magnitudes [F, T] that the mel was probably made of."""
    inverse = torch.from_numpy(_inverse_filterbank(config))
    return (inverse @ torch.from_numpy(mel_TM).T.exp()).clamp_min(_SMALLEST)


@lru_cache(maxsize=8)
def _inverse_filterbank(config: MelConfig) -> Float32Array:
    """Pseudo-inverse of the filterbank [F, M]; as good as non-negative least squares here."""
    return np.linalg.pinv(mel_filterbank(config).astype(np.float64)).astype(np.float32)


def _reconstruct(
    magnitude_FT: torch.Tensor, config: MelConfig, n_iter: int, momentum: float, seed: int
) -> torch.Tensor:
    """Wave [n_samples] after `n_iter` rounds."""
    window = torch.from_numpy(hann_window(config))
    n_samples = (magnitude_FT.shape[1] - 1) * config.hop_length
    edges = torch.from_numpy(reflection(n_samples, config.n_fft // 2))
    overshoot = momentum / (1 + momentum)

    def inverse(spectrum_FT: torch.Tensor) -> torch.Tensor:
        return torch.istft(
            spectrum_FT, config.n_fft, config.hop_length, window=window, length=n_samples
        )

    generator = torch.Generator().manual_seed(seed)
    phase = 2 * torch.pi * torch.rand(magnitude_FT.shape, generator=generator)
    spectrum_FT = torch.polar(magnitude_FT, phase)
    previous_FT = torch.zeros_like(spectrum_FT)
    for _ in range(n_iter):
        consistent_FT = torch.stft(
            inverse(spectrum_FT)[edges],
            config.n_fft,
            config.hop_length,
            window=window,
            center=False,
            return_complex=True,
        )
        direction_FT = consistent_FT - overshoot * previous_FT
        spectrum_FT = direction_FT * (magnitude_FT / direction_FT.abs().clamp_min(1e-16))
        previous_FT = consistent_FT
    return inverse(spectrum_FT)

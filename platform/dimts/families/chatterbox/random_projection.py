"""Speech tokens by a seeded random projection of cepstra: 25 a second, for tests and small models.

A stand-in for S3Tokenizer where its weights cannot be had. An utterance's mel cepstra are
normalised by their own mean and standard deviation, rotated at random, and each of the resulting
numbers is rounded to one of three levels, as S3's quantiser rounds what it was trained to give
(finite scalar quantisation: Mentzer et al., ICLR 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct

from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import Float32Array, MelConfig, log_mel
from dimts.families.chatterbox.model.config import SPEAKER_WIDTH
from dimts.families.chatterbox.tokens_config import RandomProjectionTokens

SAMPLE_RATE = 16_000
MEL = MelConfig(
    sample_rate=SAMPLE_RATE, n_fft=2048, hop_length=640, win_length=1280, n_mels=40, f_max=8000
)
"""One frame a token."""
BORDER = 0.43
"""A third of a normal distribution lies within it, on either side of zero a half of that."""
OUTER = 1.09
"""Mean of what lies beyond the border."""


class RandomProjection:
    """Tokens of waves, and rough waves of tokens."""

    def __init__(self, config: RandomProjectionTokens):
        self._n = config.digits
        normal = np.random.default_rng(config.seed).normal(size=(self._n, self._n))
        self._rotation, _ = np.linalg.qr(normal)
        self._powers = 3 ** np.arange(self._n)

    def tokens(self, wave: Float32Array) -> NDArray[np.int16]:
        """Ids of a wave at 16 kHz, 25 a second, [T]."""
        cepstra, mean, std = self._cepstra(wave)
        z = (cepstra - mean) / std @ self._rotation
        levels = (z > BORDER).astype(np.int64) + (z > -BORDER)
        return (levels @ self._powers).astype(np.int16)

    def speaker(self, wave: Float32Array) -> Float32Array:
        """Mean and standard deviation of the cepstra, which the tokens do not have, [256]."""
        _, mean, std = self._cepstra(wave)
        vector = np.zeros(SPEAKER_WIDTH, np.float32)
        vector[: 2 * self._n] = np.concatenate([mean, std]) / np.sqrt(MEL.n_mels)
        return vector

    def wave(self, tokens: NDArray[np.integer[Any]], speaker: Float32Array) -> Float32Array:
        """What the tokens say of the mel, by Griffin-Lim: a rough impression at 16 kHz."""
        levels = tokens.astype(np.int64)[:, None] // self._powers % 3
        mean, std = np.split(speaker[: 2 * self._n] * np.sqrt(MEL.n_mels), 2)
        cepstra = mean + std * ((levels - 1) * OUTER @ self._rotation.T)
        mel_TM = idct(cepstra, n=MEL.n_mels, norm="ortho")
        if len(mel_TM) < 2:  # as many as Griffin-Lim needs
            mel_TM = np.repeat(mel_TM, 2, axis=0)
        return griffin_lim(mel_TM.astype(np.float32), MEL)

    def _cepstra(self, wave: Float32Array) -> tuple[NDArray[np.float64], ...]:
        """Cepstra [T, n], and their mean and standard deviation over the utterance, [n]."""
        mel_TM = log_mel(wave, MEL)[: -(-len(wave) // MEL.hop_length)]
        cepstra = dct(mel_TM.astype(np.float64), norm="ortho")[:, : self._n]
        return cepstra, cepstra.mean(0), np.maximum(cepstra.std(0), 1e-3)

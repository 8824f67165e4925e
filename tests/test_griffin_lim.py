"""Griffin-Lim: the wave's own mel is the mel that was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct

from benchmarks.speech_like import speech_like
from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import Float32Array, MelConfig, log_mel

CONFIG = MelConfig()


@pytest.fixture(scope="module")
def mel() -> Float32Array:
    return log_mel(speech_like(3.0, seed=1), CONFIG)


def cepstral_distortion(mel: np.ndarray, reference: np.ndarray) -> float:
    """dB: 20 / ln 10 * sqrt(sum of squares of DCT coefficients 1-13 / 80), frame by frame."""
    difference = dct(mel - reference, axis=1, norm="ortho")[:, 1:14]
    return float(np.mean(20 / np.log(10) * np.sqrt((difference**2).sum(1) / mel.shape[1])))


def test_iterations_bring_the_mel_close(mel: Float32Array) -> None:
    distortion = {
        n: cepstral_distortion(log_mel(griffin_lim(mel, CONFIG, n_iter=n), CONFIG), mel)
        for n in (0, 1, 32)
    }
    assert distortion[32] < 0.75 * distortion[1]
    assert distortion[32] < 0.5 * distortion[0]
    assert distortion[32] < 1.3


@pytest.mark.parametrize("n_frames", [2, 3, 4, 5, 97, 193])
def test_length_is_one_hop_less_than_frames(mel: Float32Array, n_frames: int) -> None:
    wave = griffin_lim(mel[40 : 40 + n_frames], CONFIG, n_iter=2)
    assert wave.shape == ((n_frames - 1) * CONFIG.hop_length,)
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()


def test_other_spec_gives_its_own_length() -> None:
    config = MelConfig(sample_rate=16_000, hop_length=200, win_length=800, n_mels=100)
    mel = log_mel(speech_like(1.0, 16_000), config)
    wave = griffin_lim(mel, config)
    assert len(wave) == 200 * (len(mel) - 1)
    assert cepstral_distortion(log_mel(wave, config), mel) < 1.5


def test_same_mel_same_bits(mel: Float32Array) -> None:
    first, second = (griffin_lim(mel, CONFIG, n_iter=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_loud_mel_does_not_clip_and_quiet_mel_stays_quiet(mel: Float32Array) -> None:
    loud = griffin_lim(mel + 3.0, CONFIG, n_iter=8)
    assert 0.95 < np.abs(loud).max() <= 1.0
    quiet = griffin_lim(mel - 3.0, CONFIG, n_iter=8)
    normal = griffin_lim(mel, CONFIG, n_iter=8)
    np.testing.assert_allclose(quiet, normal * np.exp(-3.0), atol=2e-3)
    assert np.abs(griffin_lim(np.full((50, 80), 1e4), CONFIG, n_iter=1)).max() <= 1.0


def test_no_click_at_edges_or_in_silence() -> None:
    time = np.arange(22_050) / 22_050
    tone = (0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32)
    steepest = np.abs(np.diff(tone)).max()
    wave = griffin_lim(log_mel(tone, CONFIG), CONFIG)
    assert np.abs(np.diff(wave, prepend=wave[0])).max() < 3 * steepest
    silence = griffin_lim(np.full((60, 80), np.log(CONFIG.floor)), CONFIG)
    assert np.abs(silence).max() < 1e-3


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (np.zeros((10, 79)), r"mel must be \[T >= 2, 80\], not \[10, 79\]"),
        (np.zeros((1, 80)), r"not \[1, 80\]"),
        (np.zeros(80), r"not \[80\]"),
        (np.full((10, 80), np.nan), "NaN or infinite"),
    ],
)
def test_what_is_not_a_mel_of_this_spec_is_refused(mel: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        griffin_lim(mel, CONFIG)

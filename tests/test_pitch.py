"""F0 of signals whose F0 is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dimts.audio.pitch import PitchConfig, track_pitch

RATE, HOP = 22_050, 256


def pulses(f0_S: NDArray[np.float64]) -> NDArray[np.float32]:
    """Twelve harmonics that fall off, as of a voice."""
    phase = 2 * np.pi * np.cumsum(f0_S) / RATE
    wave = sum(np.cos(k * phase) / k for k in range(1, 13))
    return np.float32(0.1) * np.asarray(wave, np.float32)


@pytest.mark.parametrize("f0", [75.0, 110.0, 220.0, 440.0])
def test_steady_f0_is_found(f0: float) -> None:
    found_T = track_pitch(pulses(np.full(RATE, f0)), RATE, HOP)
    assert len(found_T) == 1 + RATE // HOP
    np.testing.assert_allclose(found_T[4:-4], f0, rtol=3e-3)


def test_glide_is_found_where_it_is() -> None:
    f0_S = np.geomspace(100, 200, RATE)
    found_T = track_pitch(pulses(f0_S), RATE, HOP)
    np.testing.assert_allclose(found_T[4:-4], f0_S[::HOP][4:-4], rtol=0.01)


def test_noise_and_silence_are_not_voiced() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, RATE).astype(np.float32)
    assert np.mean(track_pitch(noise, RATE, HOP) > 0) < 0.1
    assert not track_pitch(np.zeros(RATE, np.float32), RATE, HOP).any()
    voiced = pulses(np.full(RATE // 2, 150.0))
    quiet = 0.002 * noise
    found_T = track_pitch(np.concatenate([voiced, quiet]), RATE, HOP)
    assert (found_T[3:38] > 0).all()
    assert not found_T[48:].any()


def test_harmonics_alone_have_the_f0_of_their_sum() -> None:
    t = np.arange(RATE) / RATE
    wave = sum(np.cos(2 * np.pi * 100 * k * t) for k in (3, 4, 5))
    found_T = track_pitch(0.1 * np.asarray(wave, np.float32), RATE, HOP)
    np.testing.assert_allclose(found_T[4:-4], 100, rtol=5e-3)


@pytest.mark.parametrize("n", [1, 100, HOP, 3 * HOP])
def test_short_waves_have_a_frame_for_each_of_the_mel(n: int) -> None:
    assert len(track_pitch(np.zeros(n, np.float32), RATE, HOP)) == 1 + n // HOP


def test_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="f_min 500 must be below f_max 400"):
        PitchConfig(f_min=500, f_max=400)

"""Held-out figures: the distortion's formula, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from examples import one_in
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.fft import dct

from dimts.evaluation.mcd import cepstra, mel_cepstral_distortion
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.held_out import UtteranceMetrics, aggregate_metrics, evaluate
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import untrained_model

Float = NDArray[np.float32]


def mel(n_frames: int, seed: int = 0, n_mels: int = 80) -> Float:
    """Random log-mel whose neighbouring frames resemble each other, as speech's do."""
    steps = np.random.default_rng(seed).normal(0, 0.5, (n_frames, n_mels))
    return (steps.cumsum(0) - 5).astype(np.float32)


def reference_distortion(a: Float, b: Float) -> float:
    """The pinned formula in plain Python: orthonormal DCT-II, coefficients 1 to 13, and the
    mean of ``20 / ln(10) * sqrt(sum(d^2) / M)`` over the path of the least sum."""
    x, y = (dct(m.astype(np.float64), norm="ortho", axis=1)[:, 1:14] for m in (a, b))
    distance = 20 / np.log(10) * np.sqrt(np.square(x[:, None] - y[None]).sum(-1) / a.shape[1])
    paths: dict[tuple[int, int], tuple[float, int]] = {}
    for i in range(len(a)):
        for j in range(len(b)):
            before = [p for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if p in paths]
            total, steps = min((paths[p] for p in before), default=(0.0, 0))
            paths[i, j] = total + float(distance[i, j]), steps + 1
    total, steps = paths[len(a) - 1, len(b) - 1]
    return total / steps


@settings(max_examples=one_in(20))
@given(n=st.integers(1, 25), m=st.integers(1, 25), seed=st.integers(0, 99))
def test_distortion_is_the_pinned_formula(n: int, m: int, seed: int) -> None:
    a, b = mel(n, seed), mel(m, seed + 1000)
    assert mel_cepstral_distortion(a, b) == pytest.approx(reference_distortion(a, b), rel=1e-4)


def test_one_coefficient_apart_is_a_known_number_of_decibels() -> None:
    """Spectra that differ by `d` along one orthonormal cosine: 20 / ln 10 * d / sqrt(80) dB."""
    a = mel(1)
    cosine = np.sqrt(2 / 80) * np.cos(np.pi * 3 * (2 * np.arange(80) + 1) / 160)
    b = (a + 2.5 * cosine).astype(np.float32)
    assert mel_cepstral_distortion(a, b) == pytest.approx(20 / np.log(10) * 2.5 / 80**0.5, rel=1e-4)


def test_cepstra_leave_out_loudness_and_detail() -> None:
    a = mel(5)
    basis = np.cos(np.pi * 14 * (2 * np.arange(80) + 1) / 160).astype(np.float32)
    assert cepstra(a).shape == (5, 13)
    assert np.allclose(cepstra(a), cepstra(a + 3.0), atol=1e-4), "coefficient 0 is loudness"
    assert np.allclose(cepstra(a), cepstra(a + basis), atol=1e-4), "14 and above are detail"


def test_same_speech_has_no_distortion_louder_or_slower() -> None:
    a = mel(30)
    assert mel_cepstral_distortion(a, a) == pytest.approx(0, abs=1e-4)
    assert mel_cepstral_distortion(a, a + 2) == pytest.approx(0, abs=1e-3)
    assert mel_cepstral_distortion(a, a.repeat(2, axis=0)) == pytest.approx(0, abs=1e-4)


@settings(max_examples=one_in(20))
@given(n=st.integers(2, 30), m=st.integers(2, 30), seed=st.integers(0, 99))
def test_distortion_is_about_the_same_both_ways(n: int, m: int, seed: int) -> None:
    """The least sum is; where two paths tie in it their lengths may differ."""
    a, b = mel(n, seed), mel(m, seed + 1000)
    forth, back = mel_cepstral_distortion(a, b), mel_cepstral_distortion(b, a)
    assert forth == pytest.approx(back, rel=1e-3)


def test_more_noise_is_more_distortion() -> None:
    a, noise = mel(60), np.random.default_rng(1).normal(0, 1, (60, 80)).astype(np.float32)
    values = [mel_cepstral_distortion(a, a + share * noise) for share in (0.1, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[0] > 0


def test_mels_that_do_not_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="mels of 80 and 40 bins"):
        mel_cepstral_distortion(mel(3), mel(3, n_mels=40))
    with pytest.raises(ValueError, match="empty"):
        mel_cepstral_distortion(mel(3), mel(3)[:0])


# A voice on a split


@pytest.fixture
def figures(settings: Callable[..., AcousticSettings]) -> list[UtteranceMetrics]:
    """Of an untrained voice, which takes every token for as long as the corpus's mean."""
    run = settings("figures")
    data = open_data(run)
    return evaluate(untrained_model(run, data), data.val)


def test_each_utterance_is_compared_with_its_recording(
    figures: list[UtteranceMetrics], settings: Callable[..., AcousticSettings]
) -> None:
    run = settings("figures")
    data = open_data(run)
    assert [f.id for f in figures] == data.val.utterances.ids
    assert [f.recorded_frames for f in figures] == data.val.utterances.n_frames.tolist()
    assert [f.tokens for f in figures] == data.val.n_tokens.tolist()
    pace = data.train.utterances.n_frames.sum() / data.train.n_tokens.sum()
    assert [f.frames for f in figures] == pytest.approx([pace * f.tokens for f in figures], abs=1)
    mean = np.array(data.features[0].manifest.mel_mean, np.float32)
    for index, row in enumerate(figures):
        recorded = data.val.utterances.mel(index)
        expected = mel_cepstral_distortion(np.tile(mean, (len(recorded), 1)), recorded)
        assert row.mean_mel_mcd == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_figures_are_of_speech_with_predicted_durations(
    settings: Callable[..., AcousticSettings],
) -> None:
    """The mel it is judged by is the one that `AcousticSpeaker` speaks; nothing of the recording
    leaks into it."""
    from dimts.families.acoustic.speaker import AcousticSpeaker

    run = settings("figures")
    data = open_data(run)
    model = untrained_model(run, data)
    row = evaluate(model, data.val)[0]
    spoken, _, _ = AcousticSpeaker(model, data.tokenizer, run.mel).mel(data.val.utterances.texts[0])
    recorded = data.val.utterances.mel(0)
    assert row.mcd == pytest.approx(mel_cepstral_distortion(spoken, recorded), rel=1e-4)
    assert row.frames == len(spoken)


def test_summary_weighs_by_utterance_frame_and_token() -> None:
    rows = [
        UtteranceMetrics("a", 2.0, 8.0, 1.0, 90, 100, 1.0, 10),
        UtteranceMetrics("b", 4.0, 9.0, 2.0, 330, 300, 2.0, 30),
    ]
    assert aggregate_metrics(rows) == {
        "mcd": 3.0,
        "mean_mel_mcd": 8.5,
        "aligned_mel_mse": pytest.approx((1 * 100 + 2 * 300) / 400),
        "length_ratio": pytest.approx(420 / 400),
        "duration_error": pytest.approx((1 * 10 + 2 * 30) / 40),
        "utterances": 2.0,
    }

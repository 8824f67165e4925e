"""What a vocoder learns from: features, crops, F0, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from vocoder_fixtures import HOP

from dimts.audio.mel import log_mel
from dimts.audio.pitch import track_pitch
from dimts.commands import prepare
from dimts.core.errors import UserError
from dimts.families.vocoder.data import open_data
from dimts.families.vocoder.dataset import Recording, resampled, without_gaps
from dimts.families.vocoder.extractors import INT16
from dimts.families.vocoder.held_out import f0_metrics
from dimts.features.feature_set import FeatureSet

pytest_plugins = ("vocoder_fixtures",)


@pytest.fixture
def settings(vocoder_settings: Any) -> Any:
    return vocoder_settings


def test_features_hold_the_speech_its_mel_and_its_f0(settings: Any) -> None:
    data = open_data(settings())
    split = data.features[0].split("train")
    for index in (0, 5):
        wave = split.column("wave", index)
        mel_TM, f0_T = split.mel(index), split.column("f0", index)
        assert wave.dtype == np.int16
        assert len(mel_TM) == len(f0_T) == 1 + len(wave) // HOP
        again_TM = log_mel(wave.astype(np.float32) / INT16, settings().mel)
        loud = mel_TM > -8  # the samples of the column are of 16 bits
        np.testing.assert_allclose(again_TM[loud], mel_TM[loud], atol=0.05)
        voiced = f0_T[f0_T > 0]
        assert 0.3 < len(voiced) / len(f0_T) < 0.95
        assert 60 <= voiced.min() < voiced.max() <= 520


def test_crop_of_a_wave_has_the_crop_of_its_mel(settings: Any) -> None:
    data = open_data(settings("training.gain=[-1.0, -0.5]"))
    batch = data.train.collate([3, 4, 9], seed=(7, 1, 2))
    assert batch.mel_BTM.shape == (3, 16, 80)
    assert batch.wave_BS.shape == (3, 16 * HOP)
    assert batch.size == 3 * 16
    for mel_TM, wave in zip(batch.mel_BTM.numpy(), batch.wave_BS.numpy(), strict=True):
        again_TM = log_mel(wave, settings().mel)[3:13]  # beyond them it has other neighbours
        loud = mel_TM[3:13] > -6
        assert np.abs(again_TM - mel_TM[3:13])[loud].mean() < 0.05
    other = data.train.collate([3, 4, 9], seed=(7, 1, 3))
    assert not torch.equal(other.mel_BTM, batch.mel_BTM)


def test_short_utterance_is_followed_by_silence(settings: Any) -> None:
    data = open_data(settings("training.crop_frames=4000"))
    batch = data.train.collate([0])
    n = len(Recording(data.features[0].split("train"), 0, HOP))
    assert not batch.wave_BS[0, n * HOP :].any()
    assert not batch.voiced_BT[0, n:].any()
    assert (batch.mel_BTM[0, n:] == float(np.float32(np.log(1e-5)))).all()
    assert batch.wave_BS[0, : n * HOP].any()


def test_f0_goes_straight_through_what_is_not_voiced() -> None:
    f0_T, voiced_T = without_gaps(np.array([0, 100, 0, 0, 130, 0], np.float32))
    np.testing.assert_allclose(f0_T, [100, 100, 110, 120, 130, 130])
    np.testing.assert_array_equal(voiced_T, [0, 1, 0, 0, 1, 0])
    assert (without_gaps(np.zeros(3, np.float32))[0] > 0).all()


def test_f0_metrics_of_known_pitches() -> None:
    recorded = np.array([100, 100, 100, 0, 0], np.float32)
    made = np.array([101, 200, 0, 0, 100], np.float32)
    error, wrong, voicing = f0_metrics(made, recorded)
    assert error == pytest.approx(100 * np.log(1.01), rel=1e-4)
    assert (wrong, voicing) == (50, 40)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mel.f_max=7000", "was prepared with mel.f_max=8000.0, the configuration says 7000.0"),
        ("pitch.voicing=0.5", "was prepared with pitch.voicing=0.35, the configuration says 0.5"),
    ],
)
def test_features_of_other_settings_are_refused(settings: Any, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_data(settings(override))


def test_features_without_waves_are_refused(settings: Any, voice_file: Path) -> None:
    of_voice = yaml.safe_load(voice_file.read_text(encoding="utf-8"))["prepare"]["features"]
    with pytest.raises(UserError, match="has no column wave; run dimts prepare with family: voc"):
        open_data(settings(f"features=[{of_voice}]"))


def test_hop_that_does_not_fit_is_refused(settings: Any) -> None:
    with pytest.raises(UserError, match=r"mel.hop_length \(250\) must be a multiple of 4"):
        settings("mel.hop_length=250")


def test_prepare_makes_what_a_vocoder_learns_from(
    vocoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tmp_path / "features"
    command = ["prepare.py", "--config", str(vocoder_file)]
    monkeypatch.setattr(sys, "argv", [*command, "--set", f"prepare.features={features}"])
    prepare.main()
    assert FeatureSet.open(features).manifest.columns.keys() == {"mel", "wave", "f0"}
    toy = tmp_path / "toy.yaml"
    toy.write_text("family: toy\nrun: {name: toy}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--config", str(toy)])
    with pytest.raises(UserError, match="toy learns from no features that dimts prepares"):
        prepare.main()


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_resampled_crop_has_its_own_mel_and_its_f0_moves(settings: Any, factor: float) -> None:
    mel = settings().mel
    recording = Recording(open_data(settings()).features[0].split("train"), 3, HOP)
    crop = resampled(recording, mel, 40, factor, np.random.default_rng(0))
    assert len(crop.wave) == 40 * HOP
    again_TM = log_mel(crop.wave, mel)[3:37]  # beyond them it has other neighbours
    np.testing.assert_allclose(again_TM, crop.mel_TM[3:37], atol=1e-3)
    whole = resampled(recording, mel, 10_000, factor, np.random.default_rng(0))
    assert len(whole.mel_TM) == pytest.approx(len(recording) / factor, abs=1)
    found_T = track_pitch(whole.wave, mel.sample_rate, HOP, settings().pitch)[: len(whole.f0_T)]
    both = (found_T > 0) & (whole.voiced_T[: len(found_T)] > 0)
    off = np.log(found_T[both] / whole.f0_T[: len(found_T)][both])
    assert np.median(np.abs(off)) < 0.02


def test_resampling_is_a_range_that_has_an_effect(settings: Any) -> None:
    plain, other = (
        open_data(settings(f"training.resampled_share={share}")).train for share in (0, 1)
    )
    assert not torch.equal(plain.collate([3]).mel_BTM, other.collate([3]).mel_BTM)
    with pytest.raises(UserError, match=r"resample 1\.2 to 0\.8: must rise"):
        settings("training.resample=[1.2, 0.8]")


def test_features_that_are_named_twice_are_learned_twice_as_often(settings: Any) -> None:
    once = open_data(settings())
    [place] = settings().features
    twice = open_data(settings(f"features=[{place}, {place}]"))
    assert len(twice.train) == 2 * len(once.train)
    assert twice.val.ids == once.val.ids
    assert twice.fingerprint == once.fingerprint

"""A voice whose decoder is shown the pitch, and the postfilter of its modulations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from training_fixtures import acoustic, assert_same_bits_when_stopped, make_job, run
from voice_fixtures import MEL, MODEL, Settings, amharic, untrained, write_voice

from data_prep.pipeline import prepare
from dimts.audio.mel import MelConfig, log_mel
from dimts.audio.pitch import track_pitch
from dimts.bundles.bundle import CONFIG, MANIFEST, read_weights, resolve_bundle, sha256
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import build_model, load_bundle
from dimts.families.acoustic.data import open_data
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import PitchConfig
from dimts.families.acoustic.model.pitch import F0_MIN, ROWS_AN_OCTAVE, Pitch, harmonic_mels
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.postfilter import (
    N_MODULATIONS,
    modulation_energy,
    postfilter,
    postfilter_gains,
)
from dimts.families.acoustic.restoration import spread_within, with_restoration
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import get_family

if TYPE_CHECKING:
    from dimts.commands.voice_config import VoiceConfig

WITH_PITCH = MODEL.model_copy(update={"pitch": PitchConfig(channels=8), "postfilter": 1.0})
TEXT = "ሰላም ነው።"


def pitched(seed: int = 0) -> T3:
    torch.manual_seed(seed)
    mean, std = torch.randn(MEL.n_mels), torch.rand(MEL.n_mels) + 1
    model = build_model(WITH_PITCH, amharic(), mean, std).eval()
    assert model.source is not None
    model.source.measure(MEL, [np.log(np.array([100, 200], np.float32))])
    torch.nn.init.normal_(model.source.into.weight)
    return model


def harmonics(f0: float, tilt: float = 1.0) -> NDArray[np.float32]:
    """A second of pulses whose harmonics fall as ``k ** -tilt``."""
    time = np.arange(22050) / 22050
    partials = [np.cos(2 * np.pi * k * f0 * time) / k**tilt for k in range(1, int(11025 / f0))]
    return (0.02 * np.sum(partials, axis=0)).astype(np.float32)


@pytest.mark.parametrize("f0", [80.0, 120.0, 233.0, 410.0])
def test_pitch_of_a_pulse_train_is_found(f0: float) -> None:
    found = track_pitch(harmonics(f0), 22050, 256)
    assert len(found) == 1 + 22050 // 256
    inside = found[10:-10]
    assert np.abs(inside / f0 - 1).max() < 0.005


def test_noise_and_silence_are_unvoiced() -> None:
    noise = np.random.default_rng(0).standard_normal(22050).astype(np.float32) * 0.1
    assert (track_pitch(noise, 22050, 256) > 0).mean() < 0.1
    assert not track_pitch(np.zeros(22050, np.float32), 22050, 256).any()


@pytest.mark.parametrize("f0", [100.0, 220.0])
def test_rows_of_harmonics_look_like_the_mel_of_pulses(f0: float) -> None:
    mel = MelConfig()
    row = round(np.log2(f0 / F0_MIN) * ROWS_AN_OCTAVE)
    shown = harmonic_mels(mel)[:, :40]
    heard = log_mel(harmonics(F0_MIN * 2 ** (row / ROWS_AN_OCTAVE), 0.0), mel)[40, :40]
    of_each = [np.corrcoef(heard, other)[0, 1] for other in shown]
    assert abs(int(np.argmax(of_each)) - row) <= 4  # within 3 % of F0


def test_decoder_is_shown_the_pitch_and_can_be_told_another() -> None:
    model = pitched()
    ids = torch.tensor([amharic().encode(TEXT, "am")])
    count = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        as_predicted = model(ids, count)
        n = as_predicted.mel_BTM.shape[1]
        low, high = (model(ids, count, f0_BT=torch.full((1, n), f0)) for f0 in (100.0, 200.0))
    assert as_predicted.f0_BT is not None
    assert as_predicted.f0_BT.shape == (1, n)
    assert not torch.allclose(low.mel_BTM, high.mel_BTM)


def test_predicted_pitch_is_shifted_and_stays_in_range() -> None:
    source = pitched().source
    assert source is not None
    pitch = Pitch(torch.tensor([[0.0, 1.0, 9.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, -1.0]]))
    f0, octave_up = source.f0(pitch)[0], source.f0(pitch, 2.0)[0]
    assert f0[0].item() == pytest.approx(2**0.5 * 100)
    assert torch.equal(octave_up[:2], f0[:2] * 2)
    assert octave_up[2] == 800
    assert f0[3] == octave_up[3] == 0


def test_bundle_with_pitch_speaks_as_before_it_was_written(tmp_path: Path) -> None:
    model = pitched()
    settings = Settings(model=WITH_PITCH)
    loaded = AcousticSpeaker.load(write_voice(tmp_path / "voice", model, settings))
    ours, theirs = loaded.mel(TEXT), AcousticSpeaker(model, amharic(), MEL).mel(TEXT)
    assert np.array_equal(ours.mel_TM, theirs.mel_TM)
    assert ours.f0_T is not None
    assert len(ours.f0_T) == len(ours.mel_TM)
    assert not np.array_equal(loaded.mel(TEXT, pitch=1.5).mel_TM, ours.mel_TM)


def test_voice_without_pitch_refuses_another_pitch() -> None:
    with pytest.raises(UserError, match="the voice predicts none"):
        AcousticSpeaker(untrained(), amharic(), MEL).mel(TEXT, pitch=1.1)
    with pytest.raises(UserError, match=r"pitch 9: must be between 0\.25 and 4"):
        AcousticSpeaker(pitched(), amharic(), MEL).mel(TEXT, pitch=9)


def test_features_without_pitch_are_refused_with_the_way_out(
    settings: Callable[..., AcousticSettings],
) -> None:
    with pytest.raises(UserError, match=r"no F0; run dimts prepare .* or set model\.pitch"):
        make_job(settings("once", "model.pitch.channels=8"))


@pytest.fixture
def pitch_settings(
    voice: Callable[..., VoiceConfig], tmp_path: Path
) -> Callable[..., AcousticSettings]:
    """Of runs that predict pitch, on features that have it."""
    features = tmp_path / "features"

    def build(name: str, *overrides: str) -> AcousticSettings:
        own = (f"prepare.features={features}", "model.pitch.channels=8", "model.postfilter=1")
        config = voice(f"run.name={name}", *own, *overrides)
        if not features.exists():
            extractors = get_family("acoustic").extractors(config)
            prepare(config.corpus, config.text, extractors, config.prepare)
        return acoustic(config.launch())

    return build


def test_pitch_is_learned_and_what_it_loses_is_measured(
    pitch_settings: Callable[..., AcousticSettings],
) -> None:
    listener, _ = run(settings := pitch_settings("whole", "training.max_steps=60"))
    losses = listener.curve("train/pitch_loss")
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    bundle = resolve_bundle(settings.run_dir)
    weights = read_weights(bundle)
    assert (weights["postfilter_FM"] != 1).any()
    assert 1 <= weights["source.gain"] <= 2
    data = open_data(settings)
    assert torch.equal(with_restoration_of(bundle, data.train), weights["postfilter_FM"])
    spoken = AcousticSpeaker.load(bundle).mel(TEXT)
    assert spoken.f0_T is not None
    assert len(spoken.f0_T) == len(spoken.mel_TM)


def with_restoration_of(bundle: Path, corpus: Corpus) -> torch.Tensor:
    model = load_bundle(bundle).model
    return with_restoration(model, model.state_dict(), corpus)["postfilter_FM"]


def test_sentences_far_apart_do_not_widen_f0_within_one() -> None:
    f0_T = np.array([100, 0, 200, 150], np.float32)
    within = float(np.log([100, 200, 150]).std())
    assert spread_within([f0_T, 2 * f0_T, np.zeros(3, np.float32)]) == pytest.approx(within)
    assert spread_within([]) == 0


def test_run_with_pitch_that_was_stopped_ends_with_the_same_bits(
    pitch_settings: Callable[..., AcousticSettings],
) -> None:
    assert_same_bits_when_stopped(pitch_settings)


def test_base_without_pitch_learns_it_and_begins_as_it_was(
    pitch_settings: Callable[..., AcousticSettings], settings: Callable[..., AcousticSettings]
) -> None:
    run(base := settings("base"))
    adapted = pitch_settings("adapted", f"base.bundle={base.run_dir}")
    model = make_job(adapted).model.eval()
    before = load_bundle(base.run_dir).model
    ids = torch.tensor([amharic().encode(TEXT, "am")])
    count = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        assert torch.equal(model(ids, count).mel_BTM, before(ids, count).mel_BTM)


def smooth_mel(seed: int, n_frames: int, keep: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal((n_frames + keep, 20))
    kernel = np.ones(keep) / keep
    return np.stack([np.convolve(row, kernel, "valid")[:n_frames] for row in noise.T], 1).astype(
        np.float32
    )


@pytest.mark.parametrize("n_frames", [1, 63, 64, 200])
def test_postfilter_of_no_strength_or_unit_gains_changes_nothing(n_frames: int) -> None:
    mel = smooth_mel(0, n_frames, 1)
    ones = np.ones((N_MODULATIONS, 20), np.float32)
    assert postfilter(mel, 2 * ones, 0.0) is mel
    assert np.allclose(postfilter(mel, ones, 1.0), mel, atol=1e-5)


def test_postfilter_puts_back_what_smoothing_took() -> None:
    natural = [smooth_mel(n, 300, 1) for n in range(6)]
    smoothed = [smooth_mel(n, 300, 2) for n in range(6, 12)]
    gains = postfilter_gains(natural, smoothed)
    restored = [postfilter(mel, gains, 1.0) for mel in smoothed]
    lost = modulation_energy(smoothed)[4:28] / modulation_energy(natural)[4:28]
    left = modulation_energy(restored)[4:28] / modulation_energy(natural)[4:28]
    assert np.abs(np.log(left)).mean() < 0.3 * np.abs(np.log(lost)).mean()
    for before, after in zip(smoothed, restored, strict=True):
        assert np.allclose(before.mean(0), after.mean(0), atol=0.15)


def test_bundle_from_before_pitch_and_speakers_speaks_as_it_did(tmp_path: Path) -> None:
    folder = write_voice(tmp_path)
    said = AcousticSpeaker.load(folder).speak("ሰላም")
    config, manifest = folder / CONFIG, folder / MANIFEST
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    for key in ("pitch", "postfilter"):
        del settings["model"][key]
    settings["training"] = {"max_steps": 2000, "a_setting_of_then": True}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    del facts["speakers"]
    facts["sha256"][CONFIG] = sha256(config)
    manifest.write_text(json.dumps(facts), encoding="utf-8")
    assert np.array_equal(AcousticSpeaker.load(folder).speak("ሰላም"), said)

"""Cleaning: offsets, noise floors, pauses and levels of recordings whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from prepare_fixtures import RATE, add_row, make_corpus, run_prepare, tone

from benchmarks import cleaning as benchmark
from benchmarks import edges
from benchmarks.recording import read_recording
from dimts.audio.cleaning import CleaningConfig, clean, remove_offset
from dimts.audio.decoded import AudioError
from dimts.audio.mel import Float32Array
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.features.feature_set import FeatureSet


def syllables(n: int, pause: float = 0.1) -> Float32Array:
    """Tones of 0.3 s that swell and fade, with pauses between them."""
    t = np.arange(int(0.3 * RATE)) / RATE
    sound = 0.3 * np.sin(2 * np.pi * 220 * t) * np.sin(np.pi * t / 0.3)
    gap = np.zeros(int(pause * RATE))
    return np.concatenate([sound, *[part for _ in range(n - 1) for part in (gap, sound)]]).astype(
        np.float32
    )


def within(wave: Float32Array, before: float, after: float) -> Float32Array:
    """A wave between silences, in seconds."""
    return np.pad(wave, (int(before * RATE), int(after * RATE)))


def noise(n: int, decibels: float) -> Float32Array:
    drawn = np.random.default_rng(0).standard_normal(n) * 10 ** (decibels / 20)
    return drawn.astype(np.float32)


@pytest.mark.parametrize("decibels", [-60.0, -45.0, -36.0])
def test_silence_under_noise_is_found(decibels: float) -> None:
    wave = within(syllables(4), 0.7, 0.9)
    expected = trim_silence(wave, RATE, TrimConfig())
    found = trim_silence(wave + noise(len(wave), decibels), RATE, TrimConfig())
    np.testing.assert_allclose(found, expected, atol=0.06 * RATE)
    assert 0.55 * RATE < found[0] < 0.65 * RATE


def test_speech_without_any_silence_is_kept_whole() -> None:
    wave = np.tile(syllables(1), 5) + noise(5 * int(0.3 * RATE), -70)
    assert trim_silence(wave, RATE, TrimConfig()) == (0, len(wave))


@pytest.mark.parametrize("offset", [0.02, -0.2])
def test_an_offset_is_removed_before_the_trim(offset: float, tmp_path: Path) -> None:
    wave = within(syllables(4), 0.7, 0.9)
    soundfile.write(tmp_path / "a.wav", wave + offset, RATE, subtype="FLOAT")
    read = read_recording(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(read, wave, atol=1e-5)
    assert trim_silence(read, RATE, TrimConfig()) == trim_silence(wave, RATE, TrimConfig())


def test_uneven_speech_has_no_offset() -> None:
    wave = within(np.maximum(syllables(4), 0), 0.3, 0.3)
    assert wave.mean() > 0.01
    kept, offset = remove_offset(wave, RATE)
    assert offset == 0
    assert kept is wave


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_constant_is_silent(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(rate, 0.5), rate)
    with pytest.raises(AudioError) as caught:
        read_recording(tmp_path / "a.wav", RATE)
    assert caught.value.reason == "silent"


def test_pauses_are_measured_and_shortened() -> None:
    wave = within(syllables(3, pause=2.0), 0.5, 0.5)
    as_it_is, span, found = clean(wave, RATE, TrimConfig(), CleaningConfig())
    assert found.pause_seconds == pytest.approx(4.0, abs=0.2)
    assert found.cut_seconds == 0
    assert len(as_it_is) == span[1] - span[0]
    short, same_span, found = clean(wave, RATE, TrimConfig(), CleaningConfig(max_pause_seconds=0.5))
    assert same_span == span
    assert len(as_it_is) - len(short) == pytest.approx(found.cut_seconds * RATE, abs=1)
    assert found.cut_seconds == pytest.approx(3.0, abs=0.2)
    assert np.square(short).sum() == pytest.approx(np.square(as_it_is).sum(), rel=1e-5)
    assert np.abs(np.diff(short)).max() <= np.abs(np.diff(as_it_is)).max() + 1e-6


def test_speech_is_brought_to_a_level_below_full_scale() -> None:
    wave = within(syllables(4), 0.2, 0.2)
    levels = []
    for gain in (0.01, 1.0):
        made, _, found = clean(
            (gain * wave).astype(np.float32), RATE, TrimConfig(), CleaningConfig(loudness_db=-23)
        )
        levels.append(np.sqrt(np.square(made).mean()))
        assert found.gain_db != 0
    assert levels[0] == pytest.approx(levels[1], rel=1e-3)
    loud, _, _ = clean(wave, RATE, TrimConfig(), CleaningConfig(loudness_db=-6))
    assert np.abs(loud).max() == pytest.approx(0.99, abs=1e-3)


def test_the_benchmark_of_edges_finds_what_is_kept_and_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t = np.arange(RATE) / RATE
    wave = within((0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32), 0.3, 0.3)
    breath = slice(int(0.2 * RATE), int(0.22 * RATE))  # 45 dB below the tone
    wave[breath] = 0.3 * 10 ** (-45 / 20) * np.sin(2 * np.pi * 220 * t[breath])
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", wave, RATE, subtype="FLOAT")
    assert edges.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = {cells[1]: cells[2:] for cells in ([*map(str.strip, x.split("|")[1:-1])] for x in lines)}
    n, cut, before, after, heard, _ = rows["0.05"]
    assert (n, cut, heard) == ("2", "2", "50.0%")
    assert 60 <= int(before) <= 75
    assert 70 <= int(after) <= 85
    n, cut, before, after, heard, _ = rows["0.1"]
    assert (cut, heard) == ("2", "0.0%")
    assert 110 <= int(before) <= 125


def test_what_was_done_is_counted_and_kept(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 3)
    soundfile.write(corpus / "wavs" / "dc.wav", within(tone(9), 0.3, 0.3) + 0.1, RATE)
    add_row(corpus, "dc|ሰላም ነው።")
    run_prepare(corpus, tmp_path / "features")
    summary = (tmp_path / "features" / "summary.txt").read_text()
    assert "cleaning  1 recordings with a DC offset" in summary
    split = FeatureSet.open(tmp_path / "features").split("train")
    offsets = dict(zip(split.ids, split.values("offset"), strict=True))
    assert offsets.pop("dc") == pytest.approx(0.1, abs=1e-3)
    assert set(offsets.values()) == {0.0}


def test_other_cleaning_makes_other_features(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 3)
    first = run_prepare(corpus, tmp_path / "features")
    louder = run_prepare(corpus, tmp_path / "features", cleaning={"loudness_db": -12})
    assert first.fingerprint != louder.fingerprint
    again = run_prepare(corpus, tmp_path / "features")
    assert again.fingerprint == first.fingerprint


@pytest.mark.integration
def test_the_benchmark_measures_with_and_without_cleaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--folder", str(tmp_path), "--utterances", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| mel")]
    assert [row[0].strip() for row in rows] == ["mel", "mel and pitch"]
    seconds = np.array([[float(cell) for cell in row[1:3]] for row in rows])
    assert (seconds[1] > seconds[0]).all()
    assert (seconds > 0).all()

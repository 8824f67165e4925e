"""The mel is librosa's, for every wave and every spec, on the CPU and in torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from examples import one_in
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.speech_like import speech_like
from dimts.audio.mel import MelConfig, log_mel, log_mel_torch, mel_filterbank
from dimts.audio.mel_kernel import CHUNK_FRAMES
from dimts.core.config import build_config
from dimts.core.errors import ConfigError

SPECS = {
    "default": MelConfig(),
    "16 kHz, 100 bins, short window": MelConfig(
        sample_rate=16_000, hop_length=200, win_length=800, n_mels=100
    ),
    "not a power of two, from 60 Hz": MelConfig(
        sample_rate=24_000, n_fft=1200, hop_length=300, win_length=1200, f_min=60, f_max=12_000
    ),
    "odd window and hop": MelConfig(
        sample_rate=8_000, n_fft=512, hop_length=77, win_length=401, n_mels=40, f_max=4_000
    ),
}


@pytest.fixture(params=list(SPECS.values()), ids=list(SPECS))
def spec(request: pytest.FixtureRequest) -> MelConfig:
    config: MelConfig = request.param
    return config


def librosa_log_mel(wave: np.ndarray, config: MelConfig) -> np.ndarray:
    magnitude = np.abs(
        librosa.stft(
            wave,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            win_length=config.win_length,
            window="hann",
            center=True,
            pad_mode="reflect",
        )
    )
    filterbank = librosa.filters.mel(
        sr=config.sample_rate,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        fmin=config.f_min,
        fmax=config.f_max,
        htk=False,
        norm="slaney",
    )
    return np.log(np.maximum(filterbank @ magnitude, config.floor)).T


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def test_mel_agrees_with_librosa_on_speech(spec: MelConfig) -> None:
    wave = speech_like(4.0, max(9_000, spec.sample_rate), seed=3)
    mel = log_mel(wave, spec)
    expected = librosa_log_mel(wave, spec)
    assert mel.dtype == np.float32
    assert mel.shape == expected.shape == (1 + len(wave) // spec.hop_length, spec.n_mels)
    assert np.abs(mel - expected).max() <= 1e-3
    assert rms(mel - expected) <= 1e-5


def test_filterbank_is_librosas(spec: MelConfig) -> None:
    expected = librosa.filters.mel(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.f_min,
        fmax=spec.f_max,
    )
    np.testing.assert_allclose(mel_filterbank(spec), expected, atol=1e-8)


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")
@pytest.mark.parametrize("n_samples", [1, 2, 3, 5, 100, 255, 256, 511, 512, 513, 1023])
def test_waves_shorter_than_the_reflected_edge_agree_with_librosa(n_samples: int) -> None:
    wave = speech_like(2.0, seed=5)[10_000 : 10_000 + n_samples]
    mel = log_mel(wave, MelConfig())
    assert mel.shape == (1 + n_samples // 256, 80)
    assert np.abs(mel - librosa_log_mel(wave, MelConfig())).max() <= 1e-3


@settings(max_examples=one_in(20), derandomize=True)
@given(n_samples=st.integers(1, 3 * CHUNK_FRAMES * 200), seed=st.integers(0, 100))
def test_chunks_leave_no_seam(n_samples: int, seed: int) -> None:
    spec = SPECS["16 kHz, 100 bins, short window"]
    wave = 0.1 * np.random.default_rng(seed).standard_normal(n_samples, dtype=np.float32)
    np.testing.assert_allclose(
        log_mel(wave, spec),
        log_mel_torch(torch.from_numpy(wave[None]), spec)[0].numpy(),
        atol=1e-3,
    )


def test_torch_batch_agrees_with_single_waves(spec: MelConfig) -> None:
    waves = np.stack([speech_like(1.5, max(9_000, spec.sample_rate), seed) for seed in range(3)])
    batch = log_mel_torch(torch.from_numpy(waves), spec)
    assert batch.shape == (3, spec.n_frames(waves.shape[1]), spec.n_mels)
    for mel, wave in zip(batch.numpy(), waves, strict=True):
        assert np.abs(mel - log_mel(wave, spec)).max() <= 1e-3
        assert rms(mel - log_mel(wave, spec)) <= 1e-5


def test_silence_is_the_floor() -> None:
    mel = log_mel(np.zeros(5_000, np.float32), MelConfig(floor=1e-4))
    np.testing.assert_allclose(mel, np.log(1e-4), rtol=1e-6)


def test_double_precision_and_strided_waves_give_the_same_mel() -> None:
    wave = speech_like(1.0)
    expected = log_mel(wave, MelConfig())
    np.testing.assert_array_equal(log_mel(wave.astype(np.float64), MelConfig()), expected)
    np.testing.assert_array_equal(log_mel(np.repeat(wave, 2)[::2], MelConfig()), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_sample_reaches_the_mel(bad: float) -> None:
    wave = speech_like(1.0)
    wave[10_000] = bad
    mel = log_mel(wave, MelConfig())
    touched = np.arange(len(mel))[np.abs(np.arange(len(mel)) * 256 - 10_000) < 500]
    assert not np.isfinite(mel[touched]).any()
    assert np.isfinite(np.delete(mel, np.s_[touched[0] - 1 : touched[-1] + 2], axis=0)).all()


def test_threads_do_not_share_scratch_memory() -> None:
    waves = [speech_like(3.0, seed=seed) for seed in range(8)]
    alone = [log_mel(wave, MelConfig()) for wave in waves]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda wave: log_mel(wave, MelConfig()), waves * 4))
    for mel, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(mel, expected)


@pytest.mark.parametrize(
    "wave", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.zeros(100, np.int16)]
)
def test_what_is_not_a_wave_is_refused(wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one-dimensional array of floats"):
        log_mel(wave, MelConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"f_max": 12_000}, "f_max 12000 <= sample_rate / 2"),
        ({"f_min": 8_000}, "f_min 8000 < f_max 8000"),
        ({"win_length": 2048}, "win_length 2048 must not exceed n_fft 1024"),
        ({"hop_length": 1025}, "hop_length 1025 must be below win_length 1024"),
        ({"hop_length": 1024}, "hop_length 1024 must be below win_length 1024"),
        ({"n_fft": 1025}, "n_fft: input should be a multiple of 2"),
        ({"n_mels": 300}, "n_mels 300 is too many for n_fft 1024"),
        ({"n_fft": "wide"}, "n_fft: input should be a valid integer"),
    ],
)
def test_a_spec_that_does_not_fit_together_is_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(MelConfig, settings)


def test_a_spec_alone_does_not_import_torch_or_numba() -> None:
    code = (
        "import sys, dimts.audio.mel as mel; mel.MelConfig(); "
        "print({'torch', 'numba'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.integration
def test_kernels_are_compiled_for_later_processes_too() -> None:
    log_mel(speech_like(0.5, seed=1), MelConfig())
    code = (
        "import numpy as np; from dimts.audio import mel, mel_kernel as kernel; "
        "mel.log_mel(np.zeros(9_000, np.float32), mel.MelConfig()); "
        "print([sum(k.stats.cache_misses.values()) for k in (kernel.window_frames, "
        "kernel.band_magnitudes)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 0]"


def test_benchmark_measures_every_way_and_finds_them_equal(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "benchmarks" / "mel.py"
    spec = importlib.util.spec_from_file_location("benchmarks_mel", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    n_threads = torch.get_num_threads()
    try:
        benchmark.main(["--seconds", "5", "--rounds", "2", "--json", str(tmp_path / "mel.json")])
    finally:
        torch.set_num_threads(n_threads)
    result = json.loads((tmp_path / "mel.json").read_text(encoding="utf-8"))
    assert result["seconds"] >= 5
    compared = [row for row in result["rows"] if row["max_abs"] is not None]
    assert len(compared) == 4
    assert all(0 < row["max_abs"] <= 1e-3 and row["rms"] <= 1e-5 for row in compared)
    assert all(
        len(row[key]) == 2 and min(row[key]) > 0
        for row in result["rows"]
        for key in ("without_decode", "with_decode")
    )

"""Mel features on one core: ours beside librosa and torchaudio, on the same utterances.

    python benchmarks/mel.py                      # 10 minutes of synthetic speech-like audio
    python benchmarks/mel.py --corpus WAVS        # recordings
    python benchmarks/mel.py --seconds 20         # does it run at all?

Every row computes the same natural-log magnitude mel, utterance by utterance. In each round
every row goes through all utterances once, in turn, so that a busy machine slows all alike;
the first, uncounted round warms caches and compilers. Times are CPU time of the process, the
median over rounds; ratios are taken within a round. "With decode" reads each 16-bit WAV first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
import torchaudio
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.recording import read_recording
from benchmarks.speech_like import speech_like
from dimts.audio.files import write_wav
from dimts.audio.mel import (
    Float32Array,
    MelConfig,
    hann_window,
    log_mel,
    log_mel_torch,
    mel_filterbank,
)
from dimts.audio.mel_kernel import CHUNK_FRAMES, window_frames

LOOP = "librosa.stft + filterbank, a loop"
MELSPECTROGRAM = "librosa.feature.melspectrogram"
TORCHAUDIO = "torchaudio MelSpectrogram, per utterance"
TORCH_STFT = "torch.stft + filterbank (`log_mel_torch`)"
OURS = "**dimts `log_mel`**"
FLOOR = "window + FFT alone (the floor)"

Extract = Callable[[Float32Array], Float32Array | None]


@dataclass(frozen=True)
class Row:
    """One way to a mel; times in CPU seconds, one a round."""

    name: str
    without_decode: list[float]
    with_decode: list[float]
    max_abs: float | None
    rms: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(1)
    config = MelConfig()
    with threadpool_limits(1), tempfile.TemporaryDirectory(prefix="dimts-mel-") as folder:
        paths = _corpus(options.corpus, options.seconds, config.sample_rate, Path(folder))
        waves = [read_recording(path, config.sample_rate) for path in paths]
        rows = _measure(_ways(config), paths, waves, options.rounds)
    seconds = sum(map(len, waves)) / config.sample_rate
    source = str(options.corpus) if options.corpus else "synthetic speech-like audio"
    facts = {
        "audio": f"{seconds / 60:.1f} min, {len(waves)} utterances, {source}",
        "mel": config.model_dump(mode="json"),
        "rounds": options.rounds,
        **_machine(),
    }
    print(_markdown(rows, seconds, facts))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {**facts, "seconds": seconds, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="folder of wavs (default: synthetic)")
    parser.add_argument("--seconds", type=float, default=600.0, help="audio to use (600)")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds and --rounds must be positive")
    if options.corpus and not any(options.corpus.rglob("*.wav")):
        parser.error(f"--corpus {options.corpus}: no .wav file in this folder")
    return options


def _corpus(source: Path | None, seconds: float, sample_rate: int, folder: Path) -> list[Path]:
    """16-bit WAVs of `seconds` in all, every one at `sample_rate`, in `folder`."""
    rng = np.random.default_rng(0)
    recordings = sorted(source.rglob("*.wav")) if source else []
    paths: list[Path] = []
    total = 0.0
    while total < seconds and (source is None or len(paths) < len(recordings)):
        if source is None:
            wave = speech_like(rng.uniform(2, 10), sample_rate, seed=len(paths))
        else:
            wave = read_recording(recordings[len(paths)], sample_rate)
        paths.append(folder / f"{len(paths):05d}.wav")
        write_wav(paths[-1], wave, sample_rate)
        total += len(wave) / sample_rate
    return paths


def _ways(config: MelConfig) -> dict[str, Extract]:
    """What is compared, by name; each takes a wave to its log-mel [T, M]."""
    n_fft, hop_length = config.n_fft, config.hop_length
    filterbank = mel_filterbank(config)
    transform = torchaudio.transforms.MelSpectrogram(
        config.sample_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        f_min=config.f_min,
        f_max=config.f_max,
        n_mels=config.n_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
    )

    def loop(wave: Float32Array) -> Float32Array:
        stft = librosa.stft(wave, n_fft=n_fft, hop_length=hop_length, pad_mode="reflect")
        mel: Float32Array = filterbank @ np.abs(stft)
        return np.log(np.maximum(mel, config.floor)).T

    def melspectrogram(wave: Float32Array) -> Float32Array:
        mel: Float32Array = librosa.feature.melspectrogram(
            y=wave,
            sr=config.sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            pad_mode="reflect",
            power=1.0,
            n_mels=config.n_mels,
            fmin=config.f_min,
            fmax=config.f_max,
        )
        return np.log(np.maximum(mel, config.floor)).T

    def with_torchaudio(wave: Float32Array) -> Float32Array:
        mel_MT: torch.Tensor = transform(torch.from_numpy(wave))
        return mel_MT.clamp_min(config.floor).log().T.numpy()

    def torch_stft(wave: Float32Array) -> Float32Array:
        return log_mel_torch(torch.from_numpy(wave)[None], config)[0].numpy()

    return {
        LOOP: loop,
        MELSPECTROGRAM: melspectrogram,
        TORCHAUDIO: with_torchaudio,
        TORCH_STFT: torch_stft,
        OURS: lambda wave: log_mel(wave, config),
        FLOOR: _floor(config),
    }


def _floor(config: MelConfig) -> Extract:
    """The part that no mel can do without, as `log_mel` does it."""
    window = hann_window(config)
    frames = torch.empty(CHUNK_FRAMES, config.n_fft)
    spectrum = torch.empty(CHUNK_FRAMES, config.n_bins, dtype=torch.complex64)

    def window_and_fft(wave: Float32Array) -> None:
        n_frames = config.n_frames(len(wave))
        for start in range(0, n_frames, CHUNK_FRAMES):
            n = min(CHUNK_FRAMES, n_frames - start)
            window_frames(wave, window, config.hop_length, start, frames.numpy()[:n])
            torch.fft.rfft(frames[:n], out=spectrum[:n])

    return window_and_fft


def _measure(
    ways: dict[str, Extract], paths: list[Path], waves: list[Float32Array], rounds: int
) -> list[Row]:
    """Interleaved rounds; the first, uncounted one also yields the agreement with `LOOP`."""
    expected = [ways[LOOP](wave) for wave in waves]
    rows = []
    for name, extract in ways.items():
        differences = [
            np.abs(mel - reference)
            for mel, reference in zip(map(extract, waves), expected, strict=True)
            if mel is not None and reference is not None and name != LOOP
        ]
        squares = [np.square(d, dtype=np.float64).mean() * d.size for d in differences]
        n_values = sum(d.size for d in differences)
        rows.append(
            Row(
                name,
                [],
                [],
                max_abs=max((float(d.max()) for d in differences), default=None),
                rms=float(np.sqrt(sum(squares) / n_values)) if n_values else None,
            )
        )
    for _ in range(rounds):
        for row in rows:
            row.without_decode.append(_cpu_seconds(ways[row.name], waves))
            row.with_decode.append(_cpu_seconds(_decoded(ways[row.name], row.name), paths))
    return rows


def _decoded(extract: Extract, name: str) -> Callable[[Path], object]:
    """From the file on; ours with all the checks of `read_recording`, the others without."""
    sample_rate = MelConfig().sample_rate
    if name == OURS:
        return lambda path: extract(read_recording(path, sample_rate))
    return lambda path: extract(soundfile.read(path, dtype="float32")[0])


def _cpu_seconds(work: Callable[..., object], items: Sequence[object]) -> float:
    start = time.process_time()
    for item in items:
        work(item)
    return time.process_time() - start


def _machine() -> dict[str, object]:
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    packages = ("numpy", "scipy", "librosa", "torch", "torchaudio", "numba", "soundfile")
    marks = ("OMP_", "BLAS", "MKL_", "NUMBA_")
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, 1 used",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "blas": ", ".join(
            f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip()
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "environment": {k: v for k, v in sorted(os.environ.items()) if any(m in k for m in marks)},
    }


def _markdown(rows: list[Row], seconds: float, facts: dict[str, object]) -> str:
    """The table and the facts under it."""
    by_name = {row.name: row for row in rows}
    lines = [
        "| | x real time | with decode | vs. librosa.stft loop | vs. melspectrogram "
        "| vs. the floor | max abs | rms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratios = [
            _ratio(by_name[other].without_decode, row.without_decode)
            for other in (LOOP, MELSPECTROGRAM, FLOOR)
        ]
        cells = [
            row.name,
            f"{seconds / np.median(row.without_decode):,.0f}",
            f"{seconds / np.median(row.with_decode):,.0f}",
            *(f"{ratio:.2f}" for ratio in ratios),
            "" if row.max_abs is None else f"{row.max_abs:.1e}",
            "" if row.rms is None else f"{row.rms:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    spread = max(max(row.without_decode) / min(row.without_decode) for row in rows)
    lines += [
        "",
        "CPU time, one thread, median over interleaved rounds; differences in log-mel are against "
        f"the first row. Slowest / fastest round of a row: at most {spread:.2f}.",
        "",
        *(f"- {key}: {_plain(value)}" for key, value in facts.items()),
    ]
    return "\n".join(lines)


def _ratio(slower: list[float], faster: list[float]) -> float:
    return float(np.median(np.array(slower) / np.array(faster)))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


if __name__ == "__main__":
    sys.exit(main())

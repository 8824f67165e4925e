"""The mel on a core and on the device: how fast, and how different."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_cases import Setup
from benchmarks.speech_like import speech_like
from dimts.audio.mel import log_mel, log_mel_torch
from dimts.training.precision import same_arithmetic


def measure_mel(setup: Setup, seconds: int) -> dict[str, dict[str, float]]:
    """x real time of the mel on a core and on the device, and the largest difference."""
    each, sample_rate = 5, setup.mel.sample_rate
    waves = np.stack([speech_like(each, sample_rate, seed=k) for k in range(4)])
    waves = np.tile(waves, (seconds // each // len(waves), 1))
    expected = log_mel(waves[0], setup.mel)
    waves_BS = torch.from_numpy(waves)
    on_device_BS = waves_BS.to(setup.device)
    ways: dict[str, Callable[[], Any]] = {
        "`log_mel`, one CPU core": lambda: [log_mel(wave, setup.mel) for wave in waves],
        f"`log_mel_torch`, {setup.device.type}, waves there": lambda: log_mel_torch(
            on_device_BS, setup.mel
        ),
        f"`log_mel_torch`, {setup.device.type}, from memory and back": lambda: log_mel_torch(
            waves_BS.to(setup.device), setup.mel
        ).cpu(),
    }
    results = {}
    for name, way in ways.items():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with same_arithmetic(setup.device, "off"):
            first = torch.as_tensor(way()[0]).cpu().numpy()
            times = sorted(_seconds(way, setup.device) for _ in range(5))
        torch.set_num_threads(threads)
        speed = len(waves) * each / times[len(times) // 2]
        results[name] = {"x_real_time": speed, "max_abs": float(np.abs(first - expected).max())}
    return results


def _seconds(way: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def markdown_mel(mels: dict[str, dict[str, float]]) -> str:
    lines = ["", "| mel | x real time | largest difference |", "| --- | --- | --- |"]
    for name, figures in mels.items():
        lines.append(f"| {name} | {figures['x_real_time']:,.0f} | {figures['max_abs']:.1e} |")
    return "\n".join(lines)

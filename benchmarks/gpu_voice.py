"""The sample voice trained on one CUDA device in each precision, and its held-out figures.

    PYTHONPATH=platform:. python benchmarks/gpu_voice.py --config jobs/configs/sample_am.yaml

The features have to be prepared. Each training is `jobs/train.py` without Ray or MLflow; the
figures are of its best checkpoint, loaded and spoken on the CPU. The first precision is trained
once more, stopped half-way and gone on with: how far do its weights end from those of the run that
nothing disturbed?
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from dimts.bundles.bundle import resolve_bundle
from dimts.cli import run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.core.machine import machine_facts
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.launch.run_logger import RunLogger
from dimts.launch.settings import Launch
from dimts.launch.start import start_run
from dimts.launch.training_run import run_training

AMPS = ("bf16", "fp16", "tf32", "off")


class StopsAt(RunLogger):
    """Asks to stop after a number of steps."""

    steps = 0

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps >= self.launch.settings.training.max_steps // 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if not torch.cuda.is_available():
        raise UserError("torch finds no CUDA device")
    with tempfile.TemporaryDirectory(prefix="dimts-gpu-voice-") as folder:
        results = {amp: _train(_config(options, folder, amp)) for amp in options.amp}
        disturbed = {} if options.undisturbed else _disturbed(options, Path(folder))
    facts = machine_facts(("torch", "numpy"))
    print(_markdown(results, disturbed, facts))
    if options.json:
        values = {**facts, "runs": results, "disturbed": disturbed}
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, action="append", required=True)
    parser.add_argument("--amp", nargs="+", choices=AMPS, default=list(AMPS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--undisturbed", action="store_true", help="leave the last part out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args(arguments)


def _config(options: argparse.Namespace, storage: str | Path, amp: str, *more: str) -> VoiceConfig:
    overrides = ["ray.workers=0", "ray.gpu=true", "tracking.enabled=false", f"training.amp={amp}"]
    overrides += [f"run.storage={storage}", f"run.name=amp_{amp}", *options.overrides, *more]
    return load_config(VoiceConfig, options.config, overrides)


def _train(config: VoiceConfig) -> dict[str, Any]:
    """Train to the end; what `start_run` says, and a sentence of the best checkpoint in seconds."""
    result = start_run(config.launch(), config.ray)
    voice = AcousticSpeaker.load(result["best"], "cpu")
    wave = voice.speak(config.training.sample_texts[0]) if config.training.sample_texts else [0.0]
    assert np.isfinite(wave).all()
    return {**result, "spoken_s": len(wave) / voice.sample_rate}


def _disturbed(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Largest difference of a weight from the undisturbed run's: of one that was stopped and went
    on, and of one that was simply run again."""
    amp = options.amp[0]
    quiet = ("training.sample_every=0",)
    launches = {
        name: _config(options, folder, amp, f"run.name={name}", *quiet).launch()
        for name in ("stopped", "again")
    }
    _run(launches["stopped"], stop=True)
    _run(launches["stopped"])
    _run(launches["again"])
    first = _weights(folder / f"amp_{amp}")
    ends = {name: _weights(folder / name) for name in launches}
    return {
        name: max(float((ends[name][key] - tensor).abs().max()) for key, tensor in first.items())
        for name in launches
    }


def _run(launch: Launch, stop: bool = False) -> None:
    launch.run_dir.mkdir(parents=True, exist_ok=True)
    recorder = StopsAt(launch) if stop else RunLogger(launch)
    result = run_training(launch.settings, recorder, torch.device("cuda"))
    assert result.status == ("stopped" if stop else "finished")


def _weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(resolve_bundle(run_dir / "checkpoint_latest") / "model.safetensors")


def _markdown(
    results: dict[str, dict[str, Any]], disturbed: dict[str, float], facts: dict[str, object]
) -> str:
    lines = [
        "| AMP | steps, s | validation, s | frames/s | test MCD, dB | val MCD, dB | length ratio "
        "| steps left out |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for amp, result in results.items():
        seconds, figures = result["seconds"], result["metrics"]
        of_steps = seconds["step"] + seconds["data"]
        cells = (
            amp,
            f"{of_steps:.1f}",
            f"{seconds.get('validation', 0):.1f}",
            f"{result['units'] / of_steps:,.0f}",
            f"{figures['test/mcd']:.2f}",
            f"{figures['val/mcd']:.2f}",
            f"{figures['test/length_ratio']:.3f}",
            str(result["skipped_steps"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if disturbed:
        lines.append(
            "- largest difference of a weight from the first run's: stopped half-way and gone on "
            f"{disturbed['stopped']:.1e}, run again {disturbed['again']:.1e}"
        )
    lines += [
        *(f"- {key}: {value}" for key, value in facts.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)

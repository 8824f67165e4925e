"""Held-out figures of a voice, over seeds and ways of aligning, as a table for docs/results.md.

python benchmarks/voices.py --config jobs/configs/sample_am.yaml
python benchmarks/voices.py --config jobs/configs/asterisk_en.yaml --aligners em mas hybrid

Every run is a plain run of jobs/train.py without Ray, so it goes on where it stopped when the
command is given again. Features must have been prepared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine_facts import machine_facts
from dimts.cli import config_parser, run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.launch.names import RESULT

ROOT = Path(__file__).resolve().parents[1]
ALIGNERS = {"em": 1.0, "mas": 0.0, "hybrid": None}
"""Share of the steps on flat-start durations; None is what the configuration says."""
COLUMNS = {
    "test/mcd": ("MCD, dB", 2),
    "test/mcd_of_untrained": ("MCD / untrained", 3),
    "test/length_ratio": ("length ratio", 3),
    "test/duration_error": ("duration error, frames", 2),
    "test/aligned_mel_mse": ("mel MSE, aligned", 3),
    "test/untrained_mcd": ("MCD, untrained", 2),
    "test/mean_mel_mcd": ("MCD, mean mel", 2),
    "val/mcd": ("val MCD, dB", 2),
}


def main() -> None:
    """Train what is not trained yet, then print the table."""
    arguments = parse()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    names = [(a, s) for a in arguments.aligners for s in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = list(pool.map(lambda name: train(arguments, config, *name), names))
    rows = dict(zip(names, results, strict=True))
    print(table(rows, arguments, config))
    if arguments.json:
        plain = {f"{a}-{s}": row for (a, s), row in rows.items()}
        arguments.json.write_text(json.dumps(plain, indent=2), encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = config_parser(__doc__ or "")
    parser.add_argument("--aligners", nargs="+", choices=ALIGNERS, default=["hybrid"])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument(
        "--parallel", type=int, default=1, help="runs at a time, each with its share of the cores"
    )
    parser.add_argument("--json", type=Path, help="also write every run's figures here")
    return parser.parse_args()


def train(arguments: argparse.Namespace, config: VoiceConfig, aligner: str, seed: int) -> Any:
    """One run, unless it has ended before; what its result file holds."""
    name = f"{config.run.name}-{aligner}-{seed}"
    result = config.run.storage / name / RESULT
    if not result.exists() or json.loads(result.read_text())["status"] == "stopped":
        threads = max(1, n_cores() // arguments.parallel)
        settings = [
            *arguments.overrides,
            f"run.name={name}",
            f"training.seed={seed}",
            f"training.threads={threads}",
            "ray.workers=0",
            "ray.cpus_per_worker=0",
        ]
        if (share := ALIGNERS[aligner]) is not None:
            settings.append(f"training.aligner.fixed_share={share}")
        files = [word for file in arguments.config for word in ("--config", file)]
        sets = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, str(ROOT / "jobs" / "train.py"), *files, *sets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        print(f"{name} done", file=sys.stderr, flush=True)
    return json.loads(result.read_text(encoding="utf-8"))


def table(
    rows: dict[tuple[str, int], Any], arguments: argparse.Namespace, config: VoiceConfig
) -> str:
    """Median of the seeds, and the least and greatest of them, in Markdown."""
    aligners: Sequence[str] = arguments.aligners
    lines = [
        f"{config.run.name}: {config.training.max_steps} steps, {arguments.seeds} seeds, "
        f"{int(rows[aligners[0], 0]['metrics']['test/utterances'])} test utterances; "
        + ", ".join(map(str, machine_facts(["torch"]).values())),
        "",
        "| | " + " | ".join(aligners) + " |",
        "| --- |" + " --- |" * len(aligners),
    ]
    for key, (title, digits) in COLUMNS.items():
        cells = []
        for aligner in aligners:
            values = [rows[aligner, s]["metrics"][key] for s in range(arguments.seeds)]
            cells.append(
                f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
            )
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    steps = [
        median(rows[a, s]["seconds"].get("step", 0.0) for s in range(arguments.seeds))
        for a in aligners
    ]
    lines.append("| seconds in training steps | " + " | ".join(f"{s:.0f}" for s in steps) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)

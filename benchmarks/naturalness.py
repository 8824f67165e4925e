"""What makes a voice sound natural: pitch, postfilter, discriminator, vocoder; for docs/results.md.

python benchmarks/naturalness.py --config jobs/configs/asterisk_en.yaml
python benchmarks/naturalness.py --config jobs/configs/asterisk_en.yaml --seeds 3 --split test

Three runs of jobs/train.py without Ray for each seed, which go on where they stopped when the
command is given again. Each voice speaks sentences of a split by Griffin-Lim and by the vocoder
that ships, with the postfilter and without; judges hear them beside the recordings. Features must
have been prepared by the same configuration, and the extra `judges` installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch

from benchmarks.machine_facts import machine_facts
from dimts.bundles.bundle import resolve_bundle
from dimts.cli import config_parser, run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.report import Report
from dimts.evaluation.judges.sources import COPIES, RECORDINGS, VOICE
from dimts.evaluation.judges.voice import judge_voice
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import use_shipped_vocoder
from dimts.features.feature_set import FeatureSet
from dimts.launch.names import RESULT

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "regression alone": ["model.pitch=null", "training.adversarial=null"],
    "+ pitch": ["training.adversarial=null"],
    "+ pitch + discriminator": [],
}
"""Name -> what of the recipe is taken away."""
METRICS = {"naturalness": 2, "cer": 1}


def main() -> None:
    """Train what is not trained yet, let the judges hear it, and print the table."""
    parser = config_parser(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each (default: 1)")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--sentences", type=int, default=20, help="at most (default: 20)")
    arguments = parser.parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    features = FeatureSet.open(config.prepare.features)
    judges = JudgesConfig(names=("naturalness", "recognition"), sentences=arguments.sentences)

    def hear(speaker: AcousticSpeaker, *wanted: str) -> Report:
        device = torch.device("cpu")
        return judge_voice(
            judges, [features], arguments.split, speaker, device, n_cores(), wanted
        )  # fmt: skip

    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        for name, changes in RUNS.items():
            run = train(arguments, config, name, changes, seed)
            if RECORDINGS not in rows:
                report = hear(AcousticSpeaker.load(resolve_bundle(run)), RECORDINGS, COPIES)
                rows |= {who: [means(report, who)] for who in (RECORDINGS, COPIES)}
            for how, speaker in spoken_by(run):
                heard = means(hear(speaker, VOICE), VOICE)
                rows.setdefault(f"{name}, {how}", []).append(heard)
                print(f"{name}, {how}, seed {seed}: {heard}", file=sys.stderr, flush=True)
    facts = ", ".join(map(str, machine_facts(["torch"]).values()))
    print(f"{config.run.name}: {config.training.max_steps} steps, {arguments.split}; {facts}\n")
    print("| |" + "".join(f" {name} |" for name in METRICS))
    print("| --- |" + " --- |" * len(METRICS))
    for who, found in rows.items():
        cells = [cell([row[m] for row in found if m in row], d) for m, d in METRICS.items()]
        print(f"| {who} | " + " | ".join(cells) + " |")


def train(
    arguments: argparse.Namespace, config: VoiceConfig, name: str, changes: list[str], seed: int
) -> Path:
    """The folder of a run that has ended."""
    short = "-".join(word for word in name.split() if word != "+")
    folder = Path(str(config.run.storage)) / f"{config.run.name}-{short}-{seed}"
    result = folder / RESULT
    if not result.exists() or json.loads(result.read_text())["status"] == "stopped":
        own = [f"run.name={folder.name}", f"training.seed={seed}", "ray.workers=0"]
        files = [word for file in arguments.config for word in ("--config", str(file))]
        settings = (*arguments.overrides, *changes, *own)
        sets = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, str(ROOT / "jobs" / "train.py"), *files, *sets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{folder.name}: {done.stderr.strip().splitlines()[-1]}")
    return folder


def spoken_by(run: Path) -> Iterator[tuple[str, AcousticSpeaker]]:
    """The voice of a run by each vocoder, with the postfilter and without."""
    for vocoder in ("Griffin-Lim", "vocoder"):
        for strength in (0.0, 1.0):
            speaker = AcousticSpeaker.load(resolve_bundle(run))
            if vocoder == "vocoder":
                use_shipped_vocoder(speaker)
            model = speaker.model
            model.config = model.config.model_copy(update={"postfilter": strength})
            yield f"{vocoder}{', postfilter' if strength else ''}", speaker


def means(report: Report, who: str) -> dict[str, float]:
    """What the judges said of one voice."""
    found = {name: report.mean(who, name) for name in METRICS}
    return {name: mean.mean for name, mean in found.items() if mean}


def cell(values: list[float], digits: int) -> str:
    """Median, and of several the least and the greatest."""
    if not values:
        return "-"
    text = f"{median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return text


if __name__ == "__main__":
    run_job(main)

"""A person's voice over seeds, before all judges: the table of docs/results.md.

python benchmarks/person.py --config jobs/configs/asterisk_en.yaml \\
    --config jobs/configs/start/person.yaml --unheard features/asterisk_en_long

Runs of jobs/train.py without Ray, which go on where they stopped when the command is given again.
All judges hear a split of the voice's features; the recogniser hears, too, all rows of the features
`--unheard`: of the same person, in no training. Features must have been prepared, and the extra
`judges` installed. What judges said is kept in the folder of each run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.machine_facts import machine_facts
from benchmarks.naturalness import cell, train
from dimts.bundles.bundle import resolve_bundle
from dimts.cli import config_parser, run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.metric import Metric
from dimts.evaluation.judges.config import NAMES, JudgesConfig
from dimts.evaluation.judges.metrics import OF_JUDGE, WEIGHTS
from dimts.evaluation.judges.report import to_json
from dimts.evaluation.judges.sources import RECORDINGS, VOICE
from dimts.evaluation.judges.voice import judge_voice
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import use_shipped_vocoder
from dimts.features.feature_set import FeatureSet
from dimts.launch.names import RESULT

JUDGES = tuple(name for name in NAMES if name != "distortion")
SPLITS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
Clips = dict[str, dict[str, float]]
"""Scores by sentence."""


def main() -> None:
    """Train what is not trained yet, let the judges hear it, and print the table."""
    parser = config_parser(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=3, help="runs (default: 3)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    parser.add_argument(
        "--unheard", type=Path, action="append", default=[], metavar="FOLDER", help="repeat"
    )
    arguments = parser.parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    features = Path(str(config.prepare.features))
    split, unheard = arguments.split, arguments.unheard
    runs = [train(arguments, config, "seed", [], seed) for seed in range(arguments.seeds)]
    recorded = hear_all(runs[0], RECORDINGS, features, split, unheard)
    spoken = [hear_all(run, VOICE, features, split, unheard) for run in runs]
    facts = ", ".join(map(str, machine_facts(["torch"]).values()))
    print(f"{config.run.name}: {config.training.max_steps} steps, {len(runs)} seeds; {facts}\n")
    print("| | sentences | recordings | voice | voice - recordings |\n|" + " --- |" * 5)
    of_split = [{split: sets[split]} for sets in (recorded, *spoken)]
    for metric in (metric for judge in JUDGES for metric in OF_JUDGE[judge]):
        print_row(metric.name, metric, *of_split)
    for metric in OF_JUDGE["recognition"] if unheard else ():
        print_row(f"{metric.name}, and those unheard", metric, recorded, *spoken)
    results = [json.loads((run / RESULT).read_text())["metrics"] for run in runs]
    for name, digits in (("length_ratio", 3), ("mcd", 2)):
        print(f"| {name} | | | {cell([r[f'{split}/{name}'] for r in results], digits)} | |")
    forgotten = [r["forgetting/mcd_change"] for r in results if "forgetting/mcd_change" in r]
    print(f"| languages of the base, dB | | | {cell(forgotten, 2)} | |")


def hear_all(
    run: Path, who: str, features: Path, split: str, unheard: Sequence[Path]
) -> dict[str, Clips]:
    """What judges say of the recordings or of the voice of a run, by set of sentences."""
    heard = {split: hear(run, who, features, [split], JUDGES)}
    return heard | {str(more): hear(run, who, more, SPLITS, ("recognition",)) for more in unheard}


def hear(
    run: Path, who: str, features: Path, splits: Sequence[Any], judges: Sequence[str]
) -> Clips:
    """Scores of all sentences of the splits, kept in a file of the run."""
    file = run / "judged" / f"{who}-{features.name}-{'-'.join(splits)}.json"
    if not file.exists():
        speaker = AcousticSpeaker.load(resolve_bundle(run))
        use_shipped_vocoder(speaker)
        rows = FeatureSet.open(features)
        clips: Clips = {}
        for split in splits:
            if len(rows.split(split)):
                config = JudgesConfig(names=tuple(judges), sentences=0)
                device = torch.device("cpu")
                report = judge_voice(config, [rows], split, speaker, device, 1, (who,))
                clips |= to_json(report)["clips"][who]
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(clips, indent=1), encoding="utf-8")
    found: Clips = json.loads(file.read_text(encoding="utf-8"))
    return found


def print_row(
    title: str, metric: Metric, recorded: Mapping[str, Clips], *spoken: Mapping[str, Clips]
) -> None:
    """A metric as a line: recordings, median of the voices, median of their differences."""
    ours = mean(recorded, metric.name)
    values = [value for clips in spoken if (value := mean(clips, metric.name)) is not None]
    if ours is not None and values:
        sentences = sum(len(clips) for clips in recorded.values())
        voice = cell(values, metric.digits)
        apart = cell([value - ours for value in values], metric.digits)
        print(f"| {title} | {sentences} | {ours:.{metric.digits}f} | {voice} | {apart} |")


def mean(sets: Mapping[str, Clips], metric: str) -> float | None:
    """Of all sentences together; weighted where the metric is. None: nothing was measured."""
    clips = [clip for of_set in sets.values() for clip in of_set.values() if metric in clip]
    weights = [clip[WEIGHTS[metric]] if metric in WEIGHTS else 1.0 for clip in clips]
    return float(np.average([clip[metric] for clip in clips], weights=weights)) if clips else None


if __name__ == "__main__":
    run_job(main)

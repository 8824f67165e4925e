"""Held-out metrics of a voice: ``dimts evaluate --model runs/VOICE --config FILE``.

The configuration names the features; the voice is a run's folder, a bundle or an MLflow URI.

dimts evaluate --model runs/VOICE --config FILE --judges recognition,naturalness

Judges, those of the configuration unless others are named, hear the voice, and beside it the
recordings and their Griffin-Lim copies, on sentences of the test split.
"""

from __future__ import annotations

import csv
from pathlib import Path

from dimts.cli import config_parser, count
from dimts.commands.judge import add_options, hear, judges_config, write_json
from dimts.commands.report import metrics_table
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.evaluation.judges.report import table
from dimts.evaluation.judges.sources import voices_of_split
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.dataset import load_corpus
from dimts.families.acoustic.held_out import UtteranceMetrics, aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import by_speaker, check_fits
from dimts.families.registry import use_shipped_vocoder
from dimts.features.feature_set import FeatureSet
from dimts.tracking.mlflow_model import resolve_model


def main() -> None:
    """Print the metrics of the splits that were asked for."""
    parser = config_parser(__doc__ or "")
    parser.add_argument("--model", required=True, help="run folder, bundle or MLflow URI")
    parser.add_argument("--split", choices=("train", "val", "test"), action="append")
    parser.add_argument("--csv", type=Path, help="also write one line an utterance here")
    parser.add_argument("--sentences", type=count, metavar="N", help="that judges hear; 0: all")
    add_options(parser)
    arguments = parser.parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    folder = resolve_model(arguments.model, config.tracking)
    voice = load_bundle(folder)
    features = FeatureSet.open(config.prepare.features)
    check_fits(voice, features, arguments.model)
    metrics: dict[str, float] = {}
    utterances: list[tuple[str, UtteranceMetrics]] = []
    for split in arguments.split or ("val", "test"):
        corpus = load_corpus(features, voice.tokenizer, split, voice.speakers)
        if not len(corpus):
            raise UserError(f"{config.prepare.features}: the {split} split is empty")
        rows = evaluate(voice.model, corpus)
        found = aggregate_metrics(rows) | by_speaker(rows, voice.speakers)
        metrics |= {f"{split}/{key}": value for key, value in found.items()}
        utterances += [(split, row) for row in rows]
    print(metrics_table(config.of_family, metrics))
    if arguments.csv:
        write_csv(arguments.csv, utterances)
    if names := arguments.judges or config.judges.names:
        kept = config.judges.model_dump(exclude={"names", "decides", "chooses", "not_worse"})
        judges = judges_config(kept, names, arguments)
        n = judges.sentences if arguments.sentences is None else arguments.sentences
        speaker = config.of_family.load(folder)
        use_shipped_vocoder(speaker)
        report = hear(judges, voices_of_split(features, "test", n, speaker), arguments.workers)
        print(f"\n{table(report)}")
        write_json(arguments.json, report)


def write_csv(path: Path, utterances: list[tuple[str, UtteranceMetrics]]) -> None:
    """Figures of each utterance."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["split", *UtteranceMetrics._fields])
        writer.writerows([split, *row] for split, row in utterances)

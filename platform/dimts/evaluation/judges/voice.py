"""A voice before its judges, as held-out metrics: its own scores, and what could be had at all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from dimts.core.errors import UserError
from dimts.core.metric import of_speaker
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip, Judge
from dimts.evaluation.judges.panel import judge_clips, load_judges
from dimts.evaluation.judges.report import Report, judge_voices
from dimts.evaluation.judges.sources import COPIES, RECORDINGS, VOICE, voices_of_split
from dimts.families.protocol import Speaker
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName

PREFIXES = {VOICE: "", RECORDINGS: "recorded_", COPIES: "copied_"}
"""What the name of a metric begins with, of whom it is."""


def judge_voice(
    config: JudgesConfig,
    features: Sequence[FeatureSet],
    split: SplitName,
    speaker: Speaker,
    device: torch.device,
    threads: int = 1,
    wanted: Sequence[str] = tuple(PREFIXES),
    judges: Sequence[Judge] | None = None,
) -> Report:
    """What judges say of a voice, and of the recordings and their copies as far as they are
    `wanted`, on a split of each set; see `sources.voices_of_split`. `judges` are those of the
    configuration; they are loaded if they are not given.

    Raises:
        UserError: a judge is not installed, or a recording cannot be read.
    """
    loaded = load_judges(config, device, threads) if judges is None else judges
    voices: dict[str, list[Clip]] = {}
    for of_set in features:
        if len(of_set.split(split)):
            spoken = voices_of_split(of_set, split, config.sentences, speaker, wanted)
            for name, clips in spoken.items():
                voices.setdefault(name, []).extend(clips)
    if not voices:
        raise UserError(f"judges: the {split} split has no sentences to hear")
    return judge_voices(config.names, voices, partial(judge_clips, loaded, threads=threads))


def judged_metrics(report: Report) -> dict[str, float]:
    """Means by name: ``naturalness`` of the voice, ``recorded_naturalness`` of the recordings,
    ``copied_naturalness`` of their Griffin-Lim copies, and so on; of several speakers also each
    one's, as ``speaker/NAME/naturalness``."""
    metrics = _means(report)
    for name in sorted({*report.speakers}) if len({*report.speakers}) > 1 else ():
        own = _means(report.subset([speaker == name for speaker in report.speakers]))
        copies = PREFIXES[COPIES]
        metrics |= {of_speaker(name, k): v for k, v in own.items() if not k.startswith(copies)}
    return metrics


def _means(report: Report) -> dict[str, float]:
    return {
        f"{prefix}{metric.name}": mean.mean
        for voice, prefix in PREFIXES.items()
        if voice in report.scores
        for metric in report.metrics
        if (mean := report.mean(voice, metric.name))
    }

"""What judges said of several voices on the same sentences: means, spreads, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from dimts.core.metric import Metric
from dimts.evaluation.compare import Difference, paired_difference
from dimts.evaluation.judges.judge import Clip, Scores
from dimts.evaluation.judges.metrics import OF_JUDGE, STATISTICS, WEIGHTS
from dimts.evaluation.judges.panel import Verdicts
from dimts.families.protocol import Measured


class Mean(NamedTuple):
    """A metric over `n` clips; the mean is weighted where the metric is, as an error rate is by the
    length of its text."""

    mean: float
    std: float
    n: int


class Report(NamedTuple):
    """Verdicts on the same sentences, spoken by several voices.

    Attributes:
        ids: of the sentences, each once.
        scores: of each voice, by sentence; the first voice is what others are compared with.
        metrics: that were measured, in the order of the judges.
        objections: of judges that could not judge.
        speakers: of the sentences; none if that is not known.
    """

    ids: Sequence[str]
    scores: Mapping[str, Sequence[Scores]]
    metrics: Sequence[Metric]
    objections: Sequence[str]
    speakers: Sequence[str] = ()

    def subset(self, kept: Sequence[bool]) -> Report:
        """The report on some of the sentences."""
        scores = {voice: list(compress(of_all, kept)) for voice, of_all in self.scores.items()}
        return self._replace(
            ids=list(compress(self.ids, kept)),
            scores=scores,
            speakers=list(compress(self.speakers, kept)),
        )

    def mean(self, voice: str, metric: str) -> Mean | None:
        """A metric of a voice; None if no clip has it."""
        values = np.array([s[metric] for s in self.scores[voice] if metric in s])
        if not len(values):
            return None
        mean = np.mean(list(self.values(voice, metric).values()))
        return Mean(float(mean), float(values.std(ddof=len(values) > 1)), len(values))

    def values(self, voice: str, metric: str) -> dict[str, float]:
        """A metric of each sentence that has it; their mean is that of the voice, so that one of
        a longer text weighs more where the metric is weighted."""
        scored = zip(self.ids, self.scores[voice], strict=True)
        found = {i: s for i, s in scored if metric in s}
        if metric not in WEIGHTS:
            return {i: scores[metric] for i, scores in found.items()}
        weights = {i: scores[WEIGHTS[metric]] for i, scores in found.items()}
        mean = sum(weights.values()) / max(1, len(weights))
        return {i: scores[metric] * weights[i] / mean for i, scores in found.items()}

    def difference(self, voice: str, other: str, metric: str) -> Difference | None:
        """One voice minus another on the sentences of which both have the metric."""
        pairs = zip(self.scores[voice], self.scores[other], strict=True)
        kept = self.subset([metric in a and metric in b for a, b in pairs])
        if not kept.ids:
            return None
        ours, theirs = (kept.values(name, metric) for name in (voice, other))
        sides = (Measured(kept.ids, np.array(list(side.values())), {}) for side in (ours, theirs))
        return paired_difference(*sides)


def judge_voices(
    judges: Sequence[str],
    voices: Mapping[str, Sequence[Clip]],
    listen: Callable[[Sequence[Clip]], Verdicts],
) -> Report:
    """Let judges of these names hear several voices: by name, clips of the same sentences in the
    same order. `listen` gives what they say, as `panel.judge_clips` does."""
    verdicts = {name: listen(clips) for name, clips in voices.items()}
    objections = [text for verdict in verdicts.values() for text in verdict.objections]
    names = [clip.name for clip in next(iter(voices.values()))]
    if len(set(names)) < len(names):  # of two corpora, or of none
        names = [f"{number} {name}".rstrip() for number, name in enumerate(names, start=1)]
    return Report(
        names,
        {name: verdict.scores for name, verdict in verdicts.items()},
        [metric for judge in judges for metric in OF_JUDGE[judge]],
        list(dict.fromkeys(objections)),
        [clip.speaker for clip in next(iter(voices.values()))],
    )


def table(report: Report) -> str:
    """A report as lines: a metric a line, mean +- spread of the clips of each voice, and how far
    the last voice is from the first."""
    first, *_, last = (*report.scores, *list(report.scores)[-1:])
    compared = f"{last} - {first} (95 %)" if last != first else ""
    heads = "".join(f"{name:>18}" for name in report.scores)
    lines = [f"{f'judged, {len(report.ids)} sentences':<32}{heads}   {compared}".rstrip()]
    for metric in report.metrics:
        means = [report.mean(voice, metric.name) for voice in report.scores]
        if not any(means):
            continue
        cells = "".join(f"{_cell(metric, mean):>18}" for mean in means)
        line = f"{metric.label:<32}{cells}"
        if compared and (apart := report.difference(last, first, metric.name)):
            line += f"   {apart}"
        lines.append(line)
    return "\n".join([*lines, *report.objections])


def to_json(report: Report) -> dict[str, Any]:
    """A report for programs: means, differences from the first voice, and every clip's scores."""
    first = next(iter(report.scores))
    names = [metric.name for metric in report.metrics]
    means = {v: {n: m._asdict() for n in names if (m := report.mean(v, n))} for v in report.scores}
    differences = {
        v: {n: d._asdict() for n in names if (d := report.difference(v, first, n))}
        for v in report.scores
        if v != first
    }
    clips = {
        voice: dict(zip(report.ids, scores, strict=True)) for voice, scores in report.scores.items()
    }
    return {
        "sentences": len(report.ids),
        "metrics": {
            metric.name: {
                "label": metric.label,
                "unit": metric.unit,
                "better": None if metric in STATISTICS else metric.direction,
            }
            for metric in report.metrics
        },
        "voices": means,
        f"difference_from_{first.replace(' ', '_')}": differences,
        "objections": list(report.objections),
        "clips": clips,
    }


def _cell(metric: Metric, mean: Mean | None) -> str:
    if mean is None:
        return "-"
    return f"{metric.text(mean.mean)} +- {mean.std:.{metric.digits}f}"

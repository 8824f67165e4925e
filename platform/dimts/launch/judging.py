"""Judges on Ray: a corpus is cut into parts, each heard by a process of its own."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch

from dimts.core.errors import UserError
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip, Scores
from dimts.evaluation.judges.panel import Verdicts, judge_clips, judge_kinds, load_judges

PART = 50
"""Clips of a part at most: minutes of listening, which a task that is lost costs."""


def judge_on_ray(config: JudgesConfig, clips: Sequence[Clip], workers: int) -> Verdicts:
    """As `panel.judge_clips`, by tasks of one core each; Ray must be connected.

    Judges of whose scores one depends on all clips hear them in a single task.

    Raises:
        UserError: see `panel.load_judges`.
    """
    alone = tuple(kind.name for kind in judge_kinds(config) if kind.per_clip)
    together = tuple(name for name in config.names if name not in alone)
    size = min(PART, -(-len(clips) // workers))
    parts = [slice(i, i + size) for i in range(0, len(clips), size)]
    tasks = [(alone, part) for part in parts if alone]
    tasks += [(together, slice(0, len(clips)))] if together else []
    hear = ray.remote(num_cpus=1)(_hear)
    try:
        found = ray.get([hear.remote(config, names, list(clips[part])) for names, part in tasks])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    scores: list[Scores] = [{} for _ in clips]
    objections: list[str] = []
    for (_, part), verdicts in zip(tasks, found, strict=True):
        objections += verdicts.objections
        for known, more in zip(scores[part], verdicts.scores, strict=True):
            known |= more
    return Verdicts(scores, list(dict.fromkeys(objections)))


def _hear(config: JudgesConfig, names: tuple[str, ...], clips: list[Clip]) -> Verdicts:
    config = config.model_copy(update={"names": names})
    return judge_clips(load_judges(config, torch.device("cpu")), clips)

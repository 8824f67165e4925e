"""Several judges at once: loaded by name, and heard in as many threads as there are cores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import NamedTuple

import torch

from dimts.core.threads import one_thread
from dimts.evaluation.judges.config import JudgesConfig
from dimts.evaluation.judges.judge import Clip, Judge, Scores

CHUNK = 4
"""Clips that a thread takes at a time."""


class Verdicts(NamedTuple):
    """What the judges said of some clips.

    Attributes:
        scores: of each clip, of all judges together.
        objections: of judges that could not judge them.
    """

    scores: list[Scores]
    objections: list[str]


def load_judges(config: JudgesConfig, device: torch.device, threads: int = 1) -> list[Judge]:
    """The judges that a configuration names, in its order; arguments and errors as of `Judge`."""
    return [kind(config, device, threads) for kind in judge_kinds(config)]


def judge_kinds(config: JudgesConfig) -> list[type[Judge]]:
    """The classes of the judges that a configuration names: the judge ``pitch`` is the class
    ``Pitch`` of the module `pitch`. Nothing is loaded yet."""
    modules = {name: import_module(f"{__package__}.{name}") for name in config.names}
    return [getattr(module, name.capitalize()) for name, module in modules.items()]


def judge_clips(judges: Sequence[Judge], clips: Sequence[Clip], threads: int = 1) -> Verdicts:
    """The scores of all clips by all judges that can judge them.

    A score depends on the clips alone, not on the number of threads.
    """
    objections = {judge.name: judge.objection(clips) for judge in judges}
    tasks: list[tuple[Judge, slice]] = []
    for judge in judges:
        size = CHUNK if judge.per_clip else max(1, len(clips))
        if not objections[judge.name]:
            tasks += [(judge, slice(i, i + size)) for i in range(0, len(clips), size)]
    scores: list[Scores] = [{} for _ in clips]
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        done = pool.map(lambda task: task[0].score(clips[task[1]]), tasks)
        for (_, where), found in zip(tasks, done, strict=True):
            for known, more in zip(scores[where], found, strict=True):
                known |= more
    return Verdicts(scores, [text for text in objections.values() if text])

"""What the trials of a sweep say, read from its Optuna study, and in which words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

DRAWN = "drawn"
"""Attribute of a trial whose settings the sampler has drawn before the trial was there."""
METRICS = "metrics"
"""Attribute of a trial that ended: metrics of its best checkpoint."""
RUNG = "rung_"
"""Beginning of attributes of a trial that hold its best loss up to a validation."""
DIVERGED = "diverged"

SHORT = {
    "training.optimizer.learning_rate": "lr",
    "training.optimizer.warmup_steps": "warmup",
    "training.batch_size": "batch",
    "model.freeze_until_index": "freeze",
    "model.freeze_blocks.encoder": "encoder blocks",
    "model.freeze_blocks.decoder": "decoder blocks",
    "base.rehearsal_share": "rehearsal",
}
"""Config path -> what a person calls it, where that is not its end."""


def objectives(study: Study) -> list[str]:
    """Names of the metrics that the sweep optimizes."""
    return list(study.metric_names or ())


def signs(study: Study) -> list[int]:
    """For each objective 1, or -1 if more of it is better."""
    return [-1 if d == StudyDirection.MAXIMIZE else 1 for d in study.directions]


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended; that it diverged Optuna has no state for."""
    return (
        str(trial.user_attrs["outcome"]) if trial.state.is_finished() else trial.state.name.lower()
    )


def is_known_good(trial: FrozenTrial) -> bool:
    """Whether its settings were given and not found."""
    return "fixed_params" in trial.system_attrs and DRAWN not in trial.user_attrs


def rungs(trial: FrozenTrial) -> dict[int, float]:
    """Number of each validation, from 1 -> best validation loss up to it; NaN where it was."""
    keys = (key for key in trial.user_attrs if key.startswith(RUNG))
    return dict(sorted((int(key.removeprefix(RUNG)), trial.user_attrs[key]) for key in keys))


def curve(trial: FrozenTrial) -> dict[int, float]:
    """What `rungs` has, where it is finite."""
    return {step: value for step, value in rungs(trial).items() if math.isfinite(value)}


def final(trial: FrozenTrial) -> list[float]:
    """Values of the objectives of a trial that ran to its end; none of any other, to which Optuna
    gives what it reported last."""
    return trial.values or [] if trial.state == TrialState.COMPLETE else []


def parameters(trials: Iterable[FrozenTrial]) -> list[str]:
    """Config paths of all parameters, in the order in which the trials name them."""
    return list(dict.fromkeys(path for trial in trials for path in trial.params))


def named(paths: Iterable[str]) -> dict[str, str]:
    """Config path -> what a person calls it: a short name, or as few last parts as are unique."""
    paths = list(paths)
    chosen: dict[str, str] = {}
    for path in paths:
        parts, n = path.split("."), 1
        while n < len(parts) and sum(p.split(".")[-n:] == parts[-n:] for p in paths) > 1:
            n += 1
        chosen[path] = SHORT.get(path, " ".join(parts[-n:]).replace("_", " "))
    return chosen


def text(value: Any, digits: int = 2) -> str:
    """A setting or a metric as a person reads it."""
    if value in (None, "[]", []):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e6
        return str(int(value)) if whole else f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

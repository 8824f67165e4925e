"""What the trials of a sweep say, read from its Optuna study, and in which words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

RUNG_LOSS, SPOKEN, FORGETTING = "val/total_loss", "val/mcd", "forgetting/mcd_change"

DRAWN = "drawn"
"""Attribute of a trial whose settings the sampler has drawn before the trial was there."""

FINISHED = "finished"
STOPPED = "stopped early"
DIVERGED = "diverged"
RUNNING = "running"

_OUTCOMES = {
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: STOPPED,
    TrialState.FAIL: "failed",
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: "waiting",
}

METRICS = {
    RUNG_LOSS: "validation loss",
    "val/mel_mse": "validation, squared error of the mel",
    "val/duration_loss": "validation, duration loss",
    SPOKEN: "validation MCD (dB)",
    FORGETTING: "forgetting, change of MCD (dB)",
}

WORDS = {
    "model.freeze_until_index": "freeze until",
    "model.freeze_blocks.encoder": "frozen encoder blocks",
    "model.freeze_blocks.decoder": "frozen decoder blocks",
    "base.start": "start of new rows",
}

SHORT = {
    "training.optimizer.learning_rate": "lr",
    "training.optimizer.warmup_steps": "warmup",
    "training.batch_size": "batch",
    "model.freeze_until_index": "freeze",
    "model.freeze_blocks.encoder": "encoder blocks",
    "model.freeze_blocks.decoder": "decoder blocks",
    "base.rehearsal_share": "rehearsal",
}


def objectives(study: Study) -> list[str]:
    """Names of the metrics that the sweep makes small."""
    return study.metric_names or [f"objective {n + 1}" for n in range(len(study.directions))]


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended; a state that Optuna has no word for is in its attributes."""
    if trial.state == TrialState.PRUNED and trial.user_attrs.get("outcome") == DIVERGED:
        return DIVERGED
    return _OUTCOMES[trial.state]


def is_known_good(trial: FrozenTrial) -> bool:
    """Whether its settings were given and not found."""
    return "fixed_params" in trial.system_attrs and DRAWN not in trial.user_attrs


def curve(trial: FrozenTrial) -> dict[int, float]:
    """Number of each validation, from 1 -> lowest validation loss up to it, where finite."""
    reported = dict(trial.intermediate_values)
    for key, value in trial.user_attrs.items():
        if key.startswith("rung_"):
            reported[int(key.removeprefix("rung_"))] = float(value)
    return {step: value for step, value in sorted(reported.items()) if math.isfinite(value)}


def final(trial: FrozenTrial, objective: int) -> float | None:
    """What a trial that ran to its end reached; None for any other, and if it is not finite."""
    if trial.state != TrialState.COMPLETE:
        return None
    assert trial.values is not None
    value = trial.values[objective]
    return value if math.isfinite(value) else None


def last(study: Study, trial: FrozenTrial, objective: int) -> float | None:
    """What was last known of an objective; of a trial that was stopped, from a smaller budget."""
    if trial.state == TrialState.COMPLETE:
        return final(trial, objective)
    name, reported = objectives(study)[objective], curve(trial)
    if name == RUNG_LOSS and reported:
        return list(reported.values())[-1]
    value = trial.user_attrs.get("figures", {}).get(name)
    return value if value is not None and math.isfinite(value) else None


def parameters(trials: Iterable[FrozenTrial]) -> list[str]:
    """Config paths of all parameters, in the order in which the trials name them."""
    return list(dict.fromkeys(path for trial in trials for path in trial.params))


def named(paths: Iterable[str], known: Mapping[str, str] = WORDS) -> dict[str, str]:
    """Config path -> what a person calls it: a known name, or as few last parts as are unique."""
    chosen: dict[str, str] = {}
    paths = list(paths)
    for path in paths:
        parts, n = path.split("."), 1
        others = [other.split(".") for other in paths if other != path]
        while n < len(parts) and any(other[-n:] == parts[-n:] for other in others):
            n += 1
        chosen[path] = known.get(path, " ".join(parts[-n:]).replace("_", " "))
    return chosen


def text(value: Any, digits: int = 2) -> str:
    """A setting or a figure as a person reads it."""
    if value in (None, "[]", []):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e6
        return str(int(value)) if whole else f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

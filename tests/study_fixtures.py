"""Small Optuna studies as a sweep leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

OUTCOMES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed",
}  # fmt: skip
LOSS, FORGETTING = "val/total_loss", "forgetting/mcd_change"
LR, BATCH = "training.optimizer.learning_rate", "training.batch_size"
FREEZE, START, SHARE = "model.freeze_until_index", "base.start", "base.rehearsal_share"
SPACE: dict[str, BaseDistribution] = {
    LR: FloatDistribution(1e-4, 1e-2, log=True),
    BATCH: IntDistribution(4, 16),
    FREEZE: CategoricalDistribution([0, 0.5, "n_base"]),
    START: CategoricalDistribution(["random", "nearest"]),
    SHARE: FloatDistribution(0, 0.4),
}


def new_study(*goals: str, directions: Sequence[Literal["minimize", "maximize"]] = ()) -> Study:
    study = optuna.create_study(
        study_name="made", directions=directions or ["minimize"] * len(goals)
    )
    study.set_metric_names(list(goals))
    return study


def add(
    study: Study,
    values: Sequence[float] | None,
    params: Mapping[str, Any] | None = None,
    curve: Sequence[float] = (),
    state: TrialState | None = None,
    known_good: bool = False,
    **attributes: Any,
) -> None:
    """A trial as a sweep leaves it: without values it was stopped early."""
    params = params or {LR: 1e-3}
    rungs = {f"rung_{n}": value for n, value in enumerate(curve, 1)}
    one = len(study.directions) == 1
    state = state or (TrialState.COMPLETE if values else TrialState.PRUNED)
    study.add_trial(
        optuna.create_trial(
            state=state,
            values=values,
            params=dict(params),
            distributions={path: SPACE[path] for path in params},
            intermediate_values=dict(enumerate(curve, 1)) if one else {},
            user_attrs={"outcome": OUTCOMES.get(state), **rungs, **attributes},
            system_attrs={"fixed_params": dict(params)} if known_good else {},
        )
    )


def mixed() -> Study:
    """Ten finished trials, some stopped ones, one that diverged and one that failed."""
    study = new_study(LOSS)
    for n in range(10):
        loss, freeze = 3 - 0.1 * n, [0, 0.5, "n_base"][n % 3]
        params = {LR: 10 ** (-4 + n / 5), BATCH: 4 + n % 5, FREEZE: freeze}
        add(study, [loss], params, [loss + 2, loss + 1, loss], known_good=n == 0, step=60)
    for _ in range(3):
        add(study, None, {LR: 5e-3, BATCH: 16, FREEZE: 0}, [6.0])
    add(study, None, {LR: 1e-2, BATCH: 4, FREEZE: 0}, outcome="diverged", reason="loss is nan")
    add(study, None, {LR: 1e-2, BATCH: 4, FREEZE: 0}, state=TrialState.FAIL, reason="<b> & co")
    return study


def search(n: int, weight_lr: float, weight_freeze: float) -> Study:
    """A random search of an objective whose true importances are known."""
    rng, study = np.random.default_rng(0), new_study(LOSS)
    for _ in range(n):
        step = int(rng.integers(3))
        decades = rng.uniform(-4, -2)
        params = {
            LR: 10**decades,
            BATCH: int(rng.integers(4, 17)),
            FREEZE: [0, 0.5, "n_base"][step],
        }
        add(study, [weight_lr * (decades + 2.5) ** 2 + weight_freeze * step], params)
    return study

"""Settings of a sweep: what is searched, for how long, and what is best."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dimts.core.config import Config
from dimts.core.metric import Metric
from dimts.storage.paths import AnyPath
from dimts.tuning.space import Space, check_conditions, check_point

Direction = Literal["minimize", "maximize"]


class EarlyStopping(Config):
    """When a trial is stopped early: asynchronous successive halving, the variant that stops.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020. A function of
    the values in the study's storage, as Ray's scheduler would forget its rungs.

    Attributes:
        first: validation at which trials are compared first.
        factor: of the trials compared, one in `factor` goes on; the next comparison comes after
            `factor` times as many validations. (What 2 and 4 find: docs/tuning.md.)
        min_trials: comparisons of fewer trials stop none.
    """

    first: int = Field(1, ge=1)
    factor: int = Field(4, ge=2)
    min_trials: int = Field(4, ge=2)

    def rungs(self, validations: int) -> list[int]:
        """The validations at which trials are compared; the last one of all ends them anyway."""
        rungs, rung = [], self.first
        while rung < validations:
            rungs.append(rung)
            rung *= self.factor
        return rungs

    def stops(self, value: float, others: Sequence[float]) -> bool:
        """Whether a trial ends here with `value`, its best loss so far (less is better), where
        others had theirs."""
        if not math.isfinite(value):
            return True
        n = len(others) + 1
        better = sum(other < value for other in filter(math.isfinite, others))
        return n >= self.min_trials and better >= max(1, n // self.factor)


class SweepConfig(Config):
    """The search.

    Attributes:
        name: of the space; the sweep's folder is the run's name and this.
        trials: in all, those that were stopped early among them. No setting is tried twice, so a
            space with fewer settings has fewer trials.
        parallel: trials at a time; 0: as many as the cluster has room for. With 1 the same seed
            gives the same sweep, whatever interrupts it.
        seed: of what is suggested.
        sampler: tpe learns from the trials before; random does not.
        startup_trials: random ones before the sampler learns.
        utterances: that a trial is trained on, counted each time; its steps are these by its
            batch size, so that all trials see as much, up to a tenth more or less, as its
            validations are equally far apart. 0: `training.max_steps` as it is.
        validations: of a trial, equally spread over its steps.
        early_stopping: of trials that are worse than others at the same validation; null: none.
        objectives: one or two metrics, and which way each is better.
        limits: of two objectives: the best trial is that with the best of the first objective
            among those of the Pareto front that keep the limit of the second: the most that it
            may be, or the least if it is maximized.
        space: key of a setting -> what is tried for it.
        known_good: settings that are tried first.
        known_good_from: folder of an earlier sweep, whose best settings are tried after those.
        known_good_best: how many of them; null: 3.
        cpus_per_trial: cores of a trial in one process.
        gpus_per_trial: GPUs of it where `ray.gpu` is on; a fraction below 1 shares one.
        keep: checkpoints of the best trials, or of all.
        max_failures: times that a trial whose process died is started again.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$")
    trials: int = Field(20, ge=1)
    parallel: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(8, ge=1)
    utterances: int = Field(0, ge=0)
    validations: int = Field(4, ge=1)
    early_stopping: EarlyStopping | None = EarlyStopping()
    objectives: dict[str, Direction] = Field(
        default={"val/total_loss": "minimize"}, min_length=1, max_length=2
    )
    limits: dict[str, float] = Field(default={})
    space: Space = Field(min_length=1)
    known_good: tuple[dict[str, Any], ...] = ()
    known_good_from: AnyPath | None = None
    known_good_best: int | None = Field(None, ge=1)
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float = Field(1, gt=0)
    keep: Literal["best", "all"] = "best"
    max_failures: int = Field(2, ge=0)

    @field_validator("gpus_per_trial")
    @classmethod
    def _is_a_share_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("must be a whole number if it is above 1")
        return gpus

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_conditions(self.space)
        for n, point in enumerate(self.known_good):
            try:
                check_point(self.space, point)
            except ValueError as error:
                raise ValueError(f"known_good.{n}: {error}") from None
        if self.known_good_best and not self.known_good_from:
            raise ValueError("known_good_best has no effect without known_good_from")
        if self.trials < len(self.known_good):
            raise ValueError(
                f"trials ({self.trials}) must be at least as many as known_good "
                f"({len(self.known_good)})"
            )
        if self.early_stopping and not self.early_stopping.rungs(self.validations):
            raise ValueError(
                f"early_stopping.first ({self.early_stopping.first}) must be below validations "
                f"({self.validations}); or set early_stopping to null"
            )
        if unknown := [name for name in self.limits if name not in self.objectives]:
            raise ValueError(f"limits: {unknown[0]} is no objective")
        if self.limits and len(self.objectives) == 1:
            raise ValueError("limits have no effect with one objective")
        return self

    def way_out(self, place: AnyPath) -> str:
        """What to do instead where the sweep in `place` cannot go on."""
        changes = (f"sweep.name={self.name[:39]}-2", f"sweep.known_good_from={place}")
        sets = shlex.join(part for change in changes for part in ("--set", change))
        return f"add {sets} to begin another sweep.name with the best settings of this one"


def check_objectives(sweep: SweepConfig, metrics: Sequence[Metric]) -> None:
    """Raise a `ValueError` for objectives that are no metrics of the family, or go the other
    way."""
    known = {metric.name: metric for metric in metrics if "/" in metric.name}
    for name, direction in sweep.objectives.items():
        if name not in known:
            raise ValueError(f"objectives: {name} is unknown; allowed here: {', '.join(known)}")
        if known[name].direction != direction:
            raise ValueError(f"objectives: {name} is to be {known[name].direction}d")


def measured(sweep: SweepConfig, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Objectives that have to be measured when a trial has ended."""
    when = {metric.name: metric.when for metric in metrics}
    return tuple(name for name in sweep.objectives if when[name] == "measured")

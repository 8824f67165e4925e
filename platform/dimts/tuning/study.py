"""A sweep's trials in Optuna's storage, from which it goes on after anything.

Nothing that decides lies in memory alone. What is suggested depends on the seed, the number of
the trial and the trials that are stored; whether a trial is stopped depends on the losses that
are stored. So a sweep of one trial at a time ends the same whatever interrupted it.
"""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dimts.core.errors import UserError
from dimts.tuning.config import Direction, SweepConfig
from dimts.tuning.distinct import count_settings, identities, identity, untried
from dimts.tuning.outcomes import DRAWN, METRICS, RUNG, curve, rungs, signs
from dimts.tuning.space import stored, suggest

STUDY_FILE = "study.db"
VALUES = "values"
KNOWN_GOOD = "known_good"
STOPS = "stops_after"
PASSED = "passed"
Outcome = Literal["finished", "stopped early", "diverged", "failed"]
STATES: dict[Outcome, TrialState] = {
    "finished": TrialState.COMPLETE,
    "stopped early": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
"""What Optuna makes of an outcome. A value from part of a budget would mislead the sampler if it
were COMPLETE; PRUNED ones rank behind those, the later stopped the better. One that diverged has
to count against its settings, which a FAIL does not."""


class Assignment(NamedTuple):
    """A trial to be run.

    Attributes:
        number: of the trial.
        values: of the searched settings.
        resumed: it was begun before the sweep was interrupted.
    """

    number: int
    values: dict[str, Any]
    resumed: bool


class Ending(NamedTuple):
    """How a trial ended.

    Attributes:
        outcome: see `STATES`.
        metrics: of its best checkpoint.
        step, frames, seconds: trained steps and mel frames in all, wall time since it was begun
            or resumed.
        reason: why it failed or diverged.
    """

    outcome: Outcome
    metrics: Mapping[str, float]
    step: int
    frames: int
    seconds: float
    reason: str = ""


class SweepStudy:
    """The trials of one sweep.

    Args:
        config: of the sweep.
        folder: of the sweep; the storage is a file in it.
        known_good: settings from another sweep, to be tried after those of the configuration; a
            study that was begun keeps those that it was begun with.
        selection: which values of the metric are better that `reported` is told of.

    Raises:
        UserError: the study there has the same objectives in another order.
    """

    def __init__(
        self,
        config: SweepConfig,
        folder: Path,
        known_good: Sequence[Mapping[str, Any]] = (),
        selection: Direction = "minimize",
    ):
        self.config = config
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = RDBStorage(
            f"sqlite:///{folder / STUDY_FILE}", engine_kwargs={"connect_args": {"timeout": 60}}
        )
        self.study = optuna.create_study(
            storage=storage,
            study_name=config.name,
            directions=list(config.objectives.values()),
            load_if_exists=True,
        )
        names = list(config.objectives)
        if self.study.metric_names not in (None, names):
            raise UserError(
                f"{folder}: was begun with the objectives in the order "
                f"{', '.join(self.study.metric_names)}, in which their values are stored; "
                f"keep it, or {config.way_out(folder)}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.set_metric_names(names)
        if known_good and KNOWN_GOOD not in self.study.user_attrs:
            self.study.set_user_attr(KNOWN_GOOD, [dict(point) for point in known_good])
        self.known_good = [*config.known_good, *self.study.user_attrs.get(KNOWN_GOOD, ())]
        self._n_settings = count_settings(config.space, config.trials)
        self._selection_sign = 1 if selection == "minimize" else -1
        self._running: dict[int, Trial] = {}

    # Trials

    @property
    def trials(self) -> list[FrozenTrial]:
        """All that were begun."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    @property
    def n_trials(self) -> int:
        """How many there will be: `sweep.trials`, or fewer if no further setting is untried."""
        begun = self.trials
        left = self._n_settings - len(identities(self.config.space, begun))
        return min(self.config.trials, len(begun) + left)

    def next(self) -> Assignment | None:
        """What to run next: one that was interrupted, or a new one; None when there are enough."""
        begun = self.trials
        for trial in begun:
            if trial.state == TrialState.RUNNING and trial.number not in self._running:
                return self._resume(trial)
        if len(begun) >= self.n_trials:
            return None
        self.study.sampler = self._sampler(len(begun))
        if len(begun) == len(self.study.get_trials(deepcopy=False)):
            self._enqueue(begun)  # else one waits that was chosen before an interruption
            self.study.sampler = RandomSampler()  # which has nothing to do: all is chosen
        return self._suggest(self.study.ask(), resumed=False)

    def reported(self, number: int, validation: int, value: float) -> bool:
        """Take the selection metric of a validation, once; whether the trial is to stop.

        Args:
            number: of the trial.
            validation: which of its validations, from 1.
            value: the metric.
        """
        trial, frozen = self._running[number], self._frozen(number)
        if STOPS in frozen.user_attrs:  # what it trains until it notices belongs to no budget
            return True
        stopping, name, found = self.config.early_stopping, f"{RUNG}{validation}", rungs(frozen)
        if validation not in found:
            found[validation] = self._best_loss(frozen, validation, value)
            trial.set_user_attr(name, found[validation])
        if not stopping or validation not in stopping.rungs(self.config.validations):
            return False
        if frozen.user_attrs.get(PASSED, 0) >= validation:  # told again after an interruption
            return False
        others = [t.user_attrs[name] for t in self.trials if
                  t.number != number and name in t.user_attrs]  # fmt: skip
        sign = self._selection_sign
        stops = stopping.stops(sign * found[validation], [sign * other for other in others])
        trial.set_user_attr(STOPS if stops else PASSED, validation)
        return stops

    def end(self, number: int, ending: Ending) -> Outcome:
        """A trial ended; the outcome, which is "diverged" if an objective is no number.

        Optuna is given the losses of its validations only now, and none of one that diverged:
        the sampler ranks a trial that was not finished by how far it came, and those last that
        have no loss at all.
        """
        values = [ending.metrics.get(name, math.nan) for name in self.config.objectives]
        outcome, reason = ending.outcome, ending.reason
        frozen = self._frozen(number)
        losses = list(rungs(frozen).values())
        if outcome == "finished" and not all(map(math.isfinite, values)):
            missing = [n for n, v in zip(self.config.objectives, values, strict=True) if v != v]
            outcome, reason = "diverged", f"no value of {', '.join(missing) or 'an objective'}"
        if outcome == "stopped early" and losses and not math.isfinite(losses[-1]):
            outcome, reason = "diverged", "the validation loss was not finite"
        trial = self._running.pop(number)
        if outcome != "diverged" and len(self.config.objectives) == 1:
            # Optuna ranks them as it ranks the objective, which may have the other direction.
            sign = self._selection_sign * signs(self.study)[0]
            for validation, value in curve(frozen).items():
                if validation not in frozen.intermediate_values:
                    trial.report(sign * value, validation)
        for name, fact in ending._replace(outcome=outcome, reason=reason)._asdict().items():
            if name != "reason" or fact:
                trial.set_user_attr(name, dict(fact) if name == METRICS else fact)
        state = STATES[outcome]
        self.study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)
        return outcome

    def release(self, number: int) -> None:
        """A trial was interrupted; the next start of the sweep goes on with it."""
        self._running.pop(number)

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """The settings of a trial."""
        values: dict[str, Any] = json.loads(trial.user_attrs[VALUES])
        return values

    def _best_loss(self, trial: FrozenTrial, validation: int, value: float) -> float:
        """The best loss up to a validation of which one is told; a bad one is not hidden by it."""
        before = [loss for n, loss in curve(trial).items() if n < validation]
        better = max if self._selection_sign < 0 else min
        return better(value, *before) if before and math.isfinite(value) else value

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _resume(self, frozen: FrozenTrial) -> Assignment:
        """Go on with a trial, also with one whose settings were only drawn in part."""
        self.study.sampler = self._sampler(frozen.number)
        trial = Trial(self.study, frozen._trial_id)
        if VALUES not in frozen.user_attrs:
            return self._suggest(trial, resumed=True)
        self._running[frozen.number] = trial
        return Assignment(frozen.number, self.values(frozen), resumed=True)

    def _enqueue(self, begun: Sequence[FrozenTrial]) -> None:
        """Choose the settings of the next trial, which are those of no other.

        What the sampler draws is drawn in a copy of the study: a trial's settings cannot be taken
        back once they are stored.
        """
        space, number = self.config.space, len(begun)
        tried = identities(space, begun)
        point = next((p for p in self.known_good if not _is_among(identity(space, p), tried)), None)
        draft = optuna.create_study(directions=self.study.directions, sampler=self._sampler(number))
        draft.add_trials(begun)
        if point is not None:  # the rest of its values is drawn
            draft.enqueue_trial(stored(space, point))
        setting = self._draw(draft, draft.ask())
        if identity(space, setting) in tried:
            rng = Random(f"{self.config.seed} {number}")
            setting = untried(space, begun, rng, setting)
        self.study.enqueue_trial(
            stored(space, setting), user_attrs={} if point is not None else {DRAWN: True}
        )

    def _draw(self, study: Study, trial: Trial) -> dict[str, Any]:
        def seed(key: str) -> None:
            study.sampler = self._sampler(trial.number, key)

        return suggest(self.config.space, trial, seed)

    def _suggest(self, trial: Trial, resumed: bool) -> Assignment:
        values = self._draw(self.study, trial)
        trial.set_user_attr(VALUES, json.dumps(values, ensure_ascii=False))
        self._running[trial.number] = trial
        return Assignment(trial.number, values, resumed)

    def _sampler(self, number: int, key: str = "") -> BaseSampler:
        """Anew for each trial, and for each parameter that is drawn by itself: the state of its
        random numbers is in no storage."""
        seed = zlib.crc32(f"{self.config.seed} {number} {key}".encode())
        if self.config.sampler == "random":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(
                seed=seed,
                n_startup_trials=self.config.startup_trials,
                multivariate=True,
                group=True,
                constant_liar=self.config.parallel != 1,
            )


def _is_among(point: frozenset[tuple[str, Any]], tried: set[frozenset[tuple[str, Any]]]) -> bool:
    """Whether a trial has had all values of a point, which may leave some to the sampler."""
    return any(point <= setting for setting in tried)


def same_failure(trials: Sequence[FrozenTrial], n: int = 3) -> str | None:
    """The reason, if all trials that ended failed for one and the same, and they are `n` or more.

    One that ended otherwise shows that the sweep can go on: the cause was mended meanwhile.
    """
    ended = [t for t in trials if t.state.is_finished()]
    reasons = {t.user_attrs.get("reason", "") for t in ended}
    if len(ended) >= n and len(reasons) == 1 and all(t.state == TrialState.FAIL for t in ended):
        return str(reasons.pop())
    return None

"""A sweep's trials in Optuna's storage, from which it goes on after anything.

What is suggested depends on the seed, the number of the trial and the stored trials alone, and
whether a trial is stopped on the stored losses. So a sweep of one trial at a time ends the same
whatever interrupted it.
"""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from dimts.core.errors import UserError
from dimts.tuning.config import Direction, SweepConfig
from dimts.tuning.outcomes import DRAWN, METRICS, RUNG, curve, rungs, signs
from dimts.tuning.space import count_settings, identities, identity, stored, suggest

STUDY_FILE = "study.db"
KNOWN_GOOD = "known_good"
"""Attribute of a study: settings of another sweep that are tried first."""
VALUES, STOPS, PASSED = "values", "stops_after", "passed"
"""Attributes of a trial: its settings as JSON, the rung that stops it, the last that did not."""
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
    """A trial to be run: its number, and values of the searched settings."""

    number: int
    values: dict[str, Any]


class Ending(NamedTuple):
    """How a trial ended, after so many steps and frames of the mel in all."""

    outcome: Outcome
    metrics: Mapping[str, float]  # of its best checkpoint
    step: int
    frames: int
    seconds: float  # of its last start
    reason: str = ""  # why it failed or diverged


class SweepStudy:
    """The trials of one sweep.

    Args:
        config, folder: of the sweep; the storage is a file in the folder.
        known_good: settings from another sweep, to be tried after those of the configuration; a
            study that was begun keeps those that it was begun with.
        selection: which way the metric is better that `reported` is given.

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
        self.study = optuna.create_study(
            storage=open_storage(folder / STUDY_FILE),
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
        self._known_good = [*config.known_good, *self.study.user_attrs.get(KNOWN_GOOD, ())]
        self._n_settings = count_settings(config.space, config.trials)
        self._sign = 1 if selection == "minimize" else -1
        self._running: dict[int, Trial] = {}

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
        self.study.sampler = RandomSampler()  # has nothing to do: `_enqueue` has chosen all
        for trial in begun:
            if trial.state == TrialState.RUNNING and trial.number not in self._running:
                return self._start(Trial(self.study, trial._trial_id))
        if len(begun) >= self.n_trials:
            return None
        if len(begun) == len(self.study.get_trials(deepcopy=False)):
            self._enqueue(begun)  # else one waits that was chosen before an interruption
        return self._start(self.study.ask())

    def reported(self, number: int, validation: int, value: float) -> bool:
        """Take the selection metric of a validation (from 1), once; whether the trial is to stop.

        The best value up to each validation is kept with the trial.
        """
        trial, frozen = self._running[number], self._frozen(number)
        if STOPS in frozen.user_attrs:  # what it trains until it notices belongs to no budget
            return True
        stopping, name, sign = self.config.early_stopping, f"{RUNG}{validation}", self._sign
        if name in frozen.user_attrs:
            value = frozen.user_attrs[name]
        else:
            if math.isfinite(value):  # one that is not must not be hidden by those before
                before = [loss for n, loss in curve(frozen).items() if n < validation]
                value = min([value, *before], key=lambda loss: sign * loss)
            trial.set_user_attr(name, value)
        if not stopping or validation not in stopping.rungs(self.config.validations):
            return False
        if frozen.user_attrs.get(PASSED, 0) >= validation:  # told again after an interruption
            return False
        others = [
            sign * t.user_attrs[name]
            for t in self.trials
            if t.number != number and name in t.user_attrs
        ]
        stops = stopping.stops(sign * value, others)
        trial.set_user_attr(STOPS if stops else PASSED, validation)
        return stops

    def end(self, number: int, ending: Ending) -> Outcome:
        """A trial ended; the outcome, which is "diverged" if an objective is no number.

        Optuna is given the losses of its validations only now, and none of one that diverged:
        the sampler ranks a trial that was not finished by how far it came, and those last that
        have no loss at all.
        """
        reached = {n: ending.metrics.get(n, math.nan) for n in self.config.objectives}
        outcome, reason = ending.outcome, ending.reason
        frozen = self._frozen(number)
        losses = list(rungs(frozen).values())
        if outcome == "finished" and not all(map(math.isfinite, reached.values())):
            missing = ", ".join(name for name, value in reached.items() if math.isnan(value))
            outcome, reason = "diverged", f"no value of {missing or 'an objective'}"
        if outcome == "stopped early" and losses and not math.isfinite(losses[-1]):
            outcome, reason = "diverged", "the validation loss was not finite"
        trial = self._running.pop(number)
        if outcome != "diverged" and len(self.config.objectives) == 1:
            # Optuna ranks them as it ranks the objective, which may have the other direction.
            sign = self._sign * signs(self.study)[0]
            for validation, value in curve(frozen).items():
                if validation not in frozen.intermediate_values:
                    trial.report(sign * value, validation)
        for name, fact in ending._replace(outcome=outcome, reason=reason)._asdict().items():
            if name != "reason" or fact:
                trial.set_user_attr(name, dict(fact) if name == METRICS else fact)
        state = STATES[outcome]
        values = list(reached.values()) if state == TrialState.COMPLETE else None
        self.study.tell(trial, values, state=state)
        return outcome

    def release(self, number: int) -> None:
        """A trial was interrupted; the next start of the sweep goes on with it."""
        self._running.pop(number)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _enqueue(self, begun: Sequence[FrozenTrial]) -> None:
        """Choose the settings of the next trial, which are those of no other.

        What the sampler draws is drawn in a copy of the study: a trial's settings cannot be taken
        back once they are stored.
        """
        space, number = self.config.space, len(begun)
        tried = identities(space, begun)
        points = [p for p in self._known_good if not any(identity(space, p) <= t for t in tried)]
        draft = optuna.create_study(directions=self.study.directions, sampler=self._sampler(number))
        draft.add_trials(begun)
        if points:  # what they leave out is drawn
            draft.enqueue_trial(stored(space, points[0]))
        setting = self._draw(draft, draft.ask())
        others = optuna.create_study(sampler=RandomSampler(self._seed(number)))
        while identity(space, setting) in tried:
            setting = suggest(space, others.ask())
        attributes = {} if points else {DRAWN: True}
        self.study.enqueue_trial(stored(space, setting), user_attrs=attributes)

    def _draw(self, study: Study, trial: Trial) -> dict[str, Any]:
        def seed(key: str) -> None:
            study.sampler = self._sampler(trial.number, key)

        return suggest(self.config.space, trial, seed)

    def _start(self, trial: Trial) -> Assignment:
        """Run a trial; of one that was interrupted, Optuna may know a part of its settings."""
        values = self._draw(self.study, trial)
        if VALUES not in trial.user_attrs:
            trial.set_user_attr(VALUES, json.dumps(values, ensure_ascii=False))
        self._running[trial.number] = trial
        return Assignment(trial.number, values)

    def _seed(self, number: int, key: str = "") -> int:
        return zlib.crc32(f"{self.config.seed} {number} {key}".encode())

    def _sampler(self, number: int, key: str = "") -> BaseSampler:
        """Anew for each trial, and for each parameter that is drawn by itself: the state of its
        random numbers is in no storage."""
        seed = self._seed(number, key)
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


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a trial."""
    values: dict[str, Any] = json.loads(trial.user_attrs[VALUES])
    return values


def open_storage(file: Path) -> RDBStorage:
    """Optuna's storage in a file."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})


def same_failure(trials: Sequence[FrozenTrial], n: int = 3) -> str | None:
    """The reason, if all trials that ended failed for one and the same, and they are `n` or more.

    One that ended otherwise shows that the sweep can go on: the cause was mended meanwhile.
    """
    ended = [t for t in trials if t.state.is_finished()]
    reasons = {t.user_attrs.get("reason", "") for t in ended}
    if len(ended) >= n and len(reasons) == 1 and all(t.state == TrialState.FAIL for t in ended):
        return str(reasons.pop())
    return None

"""A sweep from its first trial to its winner, through any number of interruptions."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from optuna import Study
from optuna.trial import FrozenTrial
from tqdm import tqdm

from dimts.core.config import put
from dimts.core.errors import ConfigError, UserError
from dimts.core.lock import locked
from dimts.core.metric import Metric
from dimts.families.protocol import SharedInputs
from dimts.launch.ray_train import connected
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.start import keep_settings
from dimts.launch.stopping import clear_stop, stop_on_signal, stop_requested, stop_run
from dimts.storage.files import remove_files
from dimts.storage.paths import AnyPath, StorageError
from dimts.storage.pointer import write_pointer
from dimts.tracking.config import TrackingConfig
from dimts.tuning.config import SweepConfig, measured
from dimts.tuning.known_good import known_good
from dimts.tuning.outcomes import METRICS, outcome
from dimts.tuning.ray_tune import run_on_tune
from dimts.tuning.remote_sweep import TRIALS, SweepCopy
from dimts.tuning.report import exhausted_line, front, pick_winner, short
from dimts.tuning.space import examples
from dimts.tuning.study import Ending, SweepStudy, same_failure, settings_of
from dimts.tuning.sweep_logger import SweepLogger
from dimts.tuning.trial import Measured, last_error, read_ending

WINNER = "best"
WINNERS_SETTINGS = "best.yaml"
MAY_CHANGE = (
    "sweep.trials", "sweep.parallel", "sweep.cpus_per_trial", "sweep.gpus_per_trial",
    "sweep.max_failures", "sweep.keep",
)  # fmt: skip
SHARED_INPUTS, SHARED_VALUES = "ground", "shared"
"""Attributes of a study: facts of its `SharedInputs`, and what they have computed."""
POLL_S = 0.3


class Plan(NamedTuple):
    """A sweep that can be run.

    Attributes:
        voice: name that the best trial's voice is registered under.
        folder, place: of the sweep, on this machine and where it has a copy in object storage.
        config_yaml, params: the resolved settings.
        metrics: of the family.
        selection: of them, what early stopping compares.
        launch: (number, values) -> the run of a trial.
    """

    title: str
    voice: str
    folder: Path
    place: AnyPath
    sweep: SweepConfig
    ray: RayConfig
    tracking: TrackingConfig
    config_yaml: str
    params: dict[str, Any]
    metrics: tuple[Metric, ...]
    selection: Metric
    launch: Callable[[int, Mapping[str, Any]], Launch]


class SweepResult(NamedTuple):
    """Whether all trials of a sweep have ended; the winner, if any ran to its end, and its held-out
    metrics."""

    is_complete: bool
    best: FrozenTrial | None
    metrics: dict[str, float]


def run_sweep(plan: Plan) -> SweepResult:
    """Run a sweep, or go on with one that was interrupted.

    Raises:
        UserError: its settings have changed or do not fit the features, it is running already,
            the cluster does not answer, or its first trials failed for one reason.
    """
    plan.tracking.check_client()
    with locked(plan.folder / "lock", f"{plan.folder}: process PID runs this sweep"):
        inputs = check(plan)
        copy = SweepCopy(plan.folder, plan.place)
        copy.fetch()
        known, line = known_good(plan.sweep, plan.folder, plan.launch)
        way_out = plan.sweep.way_out(plan.place)
        keep_settings(plan.folder, plan.config_yaml, MAY_CHANGE, plan.place, way_out)
        clear_stop(plan.folder)
        study = SweepStudy(plan.sweep, plan.folder, known, plan.selection.direction)
        of_trials = prepare(plan, inputs, study.study)
        copy.acquire()
        with SweepLogger(plan, study.study) as record:
            trials = SweepTrials(plan, study, record, copy)
            trials.tidy()
            if not trials.are_done:
                before = f", {trials.n_ended} of them ended before" if trials.n_ended else ""
                title = f"{plan.title}: {study.n_trials} trials{before}"
                more = filter(None, (line, exhausted_line(plan.sweep, study.trials)))
                print(title, *more, sep="\n", flush=True)
                with connected(plan.ray), trials.watched():
                    run_on_tune(trials, plan.sweep, plan.ray, plan.tracking, of_trials, plan.place)
            if trials.error:
                raise trials.error
            metrics: dict[str, float] = {}
            winner = pick_winner(plan.sweep, study.study)
            if trials.are_done:
                run = plan.launch(winner.number, settings_of(winner)) if winner else None
                metrics = record.conclude(run)
            record.is_complete = trials.are_done
            copy.keep()
            return SweepResult(trials.are_done, winner, metrics)


def check(plan: Plan) -> SharedInputs:
    """Check every setting of the space; nothing is written, so that mistakes leave no trace.

    Raises:
        UserError: a setting does not fit the model or its data; no data are there.
    """
    points = (*plan.sweep.known_good, *examples(plan.sweep.space))
    launches = [plan.launch(0, point) for point in points]
    names = measured(plan.sweep, plan.metrics)
    return launches[0].family.shared_inputs([launch.settings for launch in launches], names)


def prepare(plan: Plan, inputs: SharedInputs, study: Study) -> Measured:
    """Compute what trials would each compute; the study keeps it, and what the trials learn from.

    Raises:
        UserError: the inputs are not those that the sweep was begun with.
    """
    before = study.user_attrs.get(SHARED_INPUTS)
    if before is None:
        study.set_user_attr(SHARED_INPUTS, dict(inputs.facts))
    elif other := [what for what, now in inputs.facts.items() if before.get(what, now) != now]:
        raise UserError(
            f"{plan.place}: was begun with another {other[0]} than there is now, so trials cannot "
            f"be compared; {plan.sweep.way_out(plan.place)}, or remove {plan.place} to begin anew"
        )
    if SHARED_VALUES not in study.user_attrs:
        study.set_user_attr(SHARED_VALUES, inputs.prepare())
    return Measured(measured(plan.sweep, plan.metrics), study.user_attrs[SHARED_VALUES])


class SweepTrials:
    """What the sweep answers to Ray Tune, and shows of its trials.

    That is a line for each trial that ended; in a terminal a bar below them.

    Attributes:
        error: why the sweep ends before all trials have.
    """

    def __init__(self, plan: Plan, study: SweepStudy, record: SweepLogger, copy: SweepCopy):
        self.plan, self.study, self.record, self.copy = plan, study, record, copy
        self.error: Exception | None = None
        self._running: dict[int, Launch] = {}
        self._tidied: set[int] = set()
        self._bar: tqdm[NoReturn] | None = None

    @property
    def n_ended(self) -> int:
        """How many trials have ended."""
        return sum(t.state.is_finished() for t in self.study.trials)

    @property
    def are_done(self) -> bool:
        """Whether all trials have ended."""
        return self.n_ended >= self.study.n_trials

    @property
    def _is_ending(self) -> bool:
        return self.error is not None or stop_requested(self.plan.folder)

    def next(self) -> tuple[int, Launch] | None:
        """Number and run of the next trial; None if there will be no further one."""
        with self._kept():
            while not self._is_ending and (assignment := self.study.next()) is not None:
                number, values = assignment
                try:
                    launch = self.plan.launch(number, values)
                except ConfigError as error:  # each value fits the voice, but not beside the others
                    self._end(number, Ending("failed", {}, 0, 0, 0.0, str(error)))
                    continue
                self._running[number] = launch = self.record.nest(number, values, launch)
                self.copy.keep()  # before the trial leaves anything there, its settings are
                return number, launch
        return None

    def on_validation(self, number: int, validation: int, loss: float) -> None:
        """A trial validated; it waits for this to return."""
        with self._kept():
            if self.study.reported(number, validation, loss):
                stop_run(self._running[number], early=True)
            self.copy.keep()

    def ended(self, number: int, error: str | None) -> None:
        """A trial's process is done, or died too often."""
        with self._kept():
            launch = self._running.pop(number)
            ending = read_ending(launch)
            # Who tells the sweep to end may tell all its processes, as systemd does.
            if error and ending is None and not stop_requested(self.plan.folder):
                ending = Ending("failed", {}, 0, 0, 0.0, last_error(launch) or error)
            if ending is None:
                self.study.release(number)
                self.copy.keep()  # another machine may have taken up the sweep, and the trial
            else:
                self._end(number, ending)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What goes wrong inside is ours; Tune would take it for a failure of the trial."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def _end(self, number: int, ending: Ending) -> None:
        self.study.end(number, ending)
        with tqdm.external_write_mode(file=sys.stdout):
            print(f"{self.n_ended:>4}/{self.study.n_trials}  {self._line(number)}", flush=True)
        if self._bar is not None:
            self._bar.update()
        self.record.ended(self.study.trials[number])
        self.tidy()
        if reason := same_failure(self.study.trials):
            where = self.plan.place / TRIALS / f"{number:03d}"
            why = f"the first trials failed, all for one reason: {reason}; see {where}"
            self.error = self.error or UserError(why)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the trials that are running hear that the sweep is to end, and the bar is
        shown."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(POLL_S):
                if self._is_ending:
                    for launch in list(self._running.values()):
                        with suppress(StorageError):  # it is wished again
                            stop_run(launch)

        thread = threading.Thread(target=watch, daemon=True)
        with tqdm(
            total=self.study.n_trials, initial=self.n_ended, disable=None, file=sys.stdout,
            unit="trial", leave=False, dynamic_ncols=True,
        ) as self._bar:  # fmt: skip
            thread.start()
            try:
                with stop_on_signal(self.plan.folder):
                    yield
            finally:
                done.set()
                thread.join()

    def _line(self, number: int) -> str:
        trial = self.study.trials[number]
        metrics = trial.user_attrs[METRICS]
        values = [metrics.get(name, math.nan) for name in self.plan.sweep.objectives]
        reached = "  ".join(f"{value:.4f}" for value in values if math.isfinite(value))
        told = reached or trial.user_attrs.get("reason", "")[:60]
        return f"{number:03d}  {outcome(trial):<13}  {told:<8}  {short(settings_of(trial))}"

    def tidy(self) -> None:
        """``best`` names the winner's folder, and ``best.yaml`` has its settings; checkpoints
        that can no longer win are removed."""
        if winner := pick_winner(self.plan.sweep, self.study.study):
            write_pointer(self.plan.folder / WINNER, f"{TRIALS}/{winner.number:03d}")
            write_settings(self.plan.folder / WINNERS_SETTINGS, settings_of(winner))
        self.copy.keep()  # that they have ended is known before their checkpoints are removed
        if self.plan.sweep.keep == "best":
            kept = {trial.number for trial in front(self.study.study)}
            for trial in self.study.trials:
                if trial.state.is_finished() and trial.number not in kept | self._tidied:
                    remove_files(self.plan.place / TRIALS / f"{trial.number:03d}", "checkpoint_")
                    self._tidied.add(trial.number)


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Settings as a YAML file that jobs take as one more ``--config``."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        put(nested, key, value)
    text = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
    path.write_text(f"# The best trial of this sweep.\n{text}", encoding="utf-8")

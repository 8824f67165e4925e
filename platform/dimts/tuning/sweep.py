"""A sweep from its first trial to its winner, through any number of interruptions."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from optuna.trial import FrozenTrial

from dimts.core.errors import ConfigError, UserError
from dimts.core.lock import locked
from dimts.core.metric import Metric
from dimts.core.ray_session import check_cluster
from dimts.launch.ray_train import connected
from dimts.launch.settings import Launch, RayConfig
from dimts.launch.start import keep_settings
from dimts.launch.stopping import clear_stop, stop_on_signal, stop_requested, stop_run
from dimts.storage.paths import AnyPath, StorageError, remove_files
from dimts.storage.pointer import write_pointer
from dimts.tracking.config import TrackingConfig
from dimts.tuning.config import SweepConfig, measured
from dimts.tuning.distinct import exhausted_line
from dimts.tuning.known_good import known_good
from dimts.tuning.outcomes import last
from dimts.tuning.outcomes import outcome as outcome_of
from dimts.tuning.prepare import check, prepare
from dimts.tuning.progress import Progress
from dimts.tuning.ray_tune import run_on_tune
from dimts.tuning.remote_sweep import TRIALS, SweepCopy
from dimts.tuning.report import front, pick_winner, short
from dimts.tuning.study import Ending, SweepStudy, same_failure
from dimts.tuning.sweep_logger import SweepLogger
from dimts.tuning.trial import forget_errors, last_error, read_ending

WINNER = "best"
WINNERS_SETTINGS = "best.yaml"
MAY_CHANGE = (
    "sweep.trials", "sweep.parallel", "sweep.cpus_per_trial", "sweep.gpus_per_trial",
    "sweep.max_failures", "sweep.keep",
)  # fmt: skip
POLL_S = 0.3

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """A sweep that can be run.

    Attributes:
        title: what people see of it.
        voice: name that the best trial's voice is registered under.
        folder: of the sweep, on this machine.
        place: of the sweep; `folder`, or where that has a copy in object storage.
        sweep, ray, tracking: its settings, those of its trials' processes and of its record.
        config_yaml, params: the resolved settings.
        metrics: of the family; the first is what early stopping compares.
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
    launch: Callable[[int, Mapping[str, Any]], Launch]


class SweepResult(NamedTuple):
    """How a sweep ended.

    Attributes:
        is_complete: False if it was asked to stop before all trials had ended.
        best: the winner; None if no trial ran to its end.
        front: all trials that no other one is better than.
        metrics: held-out metrics of the winner, the test split among them.
    """

    is_complete: bool
    best: FrozenTrial | None
    front: list[FrozenTrial]
    metrics: dict[str, float]


def run_sweep(plan: Plan) -> SweepResult:
    """Run a sweep, or go on with one that was interrupted.

    Raises:
        UserError: its settings have changed or do not fit the features, it is running already,
            the cluster does not answer, or its first trials failed for one reason.
    """
    plan.tracking.check_client()
    check_cluster()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder / "lock", lambda pid: f"{plan.folder}: process {pid} runs this sweep"):
        inputs = check(plan.sweep, plan.launch)
        copy = SweepCopy(plan.folder, plan.place)
        copy.fetch()
        known = known_good(plan.sweep, plan.folder, plan.launch)
        way_out = plan.sweep.way_out(plan.place)
        keep_settings(plan.folder, plan.config_yaml, MAY_CHANGE, plan.place, way_out)
        clear_stop(plan.folder)
        study = SweepStudy(plan.sweep, plan.folder, known.points, plan.metrics[0].direction)
        names = measured(plan.sweep, plan.metrics)
        of_trials = prepare(plan.sweep, names, inputs, study.study, plan.place)
        copy.acquire()
        with SweepLogger(plan, study.study) as record:
            trials = SweepTrials(plan, study, record, copy)
            trials.tidy()
            if not trials.are_done:
                trials.progress.introduce(
                    plan.title, known.line, exhausted_line(plan.sweep, study.trials)
                )
                with connected(plan.ray), trials.progress.shown(), trials.watched():
                    run_on_tune(trials, plan.sweep, plan.ray, plan.tracking, of_trials, plan.place)
            if trials.error:
                raise trials.error
            if trials.failure:
                raise UserError(trials.failure)
            metrics: dict[str, float] = {}
            winner = trials.winner()
            if trials.are_done:
                metrics = record.conclude(_run_of(plan, study, winner) if winner else None)
            record.is_complete = trials.are_done
            copy.keep()
            return SweepResult(trials.are_done, winner, front(study.study), metrics)


def _run_of(plan: Plan, study: SweepStudy, trial: FrozenTrial) -> Launch:
    return plan.launch(trial.number, study.values(trial))


class SweepTrials:
    """What the sweep answers to Ray Tune; see `ray_tune.Trials`."""

    def __init__(self, plan: Plan, study: SweepStudy, record: SweepLogger, copy: SweepCopy):
        self.plan, self.study, self.record, self.copy = plan, study, record, copy
        self.failure: str | None = None
        self.error: Exception | None = None
        self._running: dict[int, Launch] = {}
        self._tidied: set[int] = set()
        ended = [t for t in study.trials if t.state.is_finished()]
        self.progress = Progress(study.n_trials, Counter(map(outcome_of, ended)), self._best())

    @property
    def are_done(self) -> bool:
        """Whether all trials have ended."""
        ended = [t for t in self.study.trials if t.state.is_finished()]
        return len(ended) >= self.study.n_trials

    @property
    def _is_ending(self) -> bool:
        return bool(self.failure or self.error) or stop_requested(self.plan.folder)

    def next(self) -> tuple[int, Launch] | None:
        following: tuple[int, Launch] | None = None
        with self._kept():
            following = self._next()
        return following

    def on_validation(self, number: int, validation: int, loss: float) -> None:
        with self._kept():
            if self.study.reported(number, validation, loss):
                stop_run(self._running[number], early=True)
            self.copy.keep()

    def ended(self, number: int, error: str | None) -> None:
        with self._kept():
            self._ended(number, error)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """What goes wrong inside is ours; Tune would take it for a failure of the trial."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def _next(self) -> tuple[int, Launch] | None:
        while not self._is_ending and (assignment := self.study.next()) is not None:
            number, values, _ = assignment
            self.progress.began()
            try:
                launch = self.plan.launch(number, values)
            except ConfigError as error:  # each value fits the voice, but not beside the others
                self._end(number, Ending("failed", {}, 0, 0, 0.0, str(error)))
                continue
            self._running[number] = launch = self.record.nest(number, values, launch)
            forget_errors(launch)
            self.copy.keep()  # before the trial leaves anything there, its settings are
            return number, launch
        return None

    def _ended(self, number: int, error: str | None) -> None:
        launch = self._running.pop(number)
        ending = read_ending(launch)
        # Who tells the sweep to end may tell all its processes, as systemd does.
        if error and ending is None and not stop_requested(self.plan.folder):
            ending = Ending("failed", {}, 0, 0, 0.0, last_error(launch) or error)
        if ending is None:
            self.study.release(number)
            self.progress.release()
            self.copy.keep()  # another machine may have taken up the sweep, and the trial
            return
        self._end(number, ending)

    def _end(self, number: int, ending: Ending) -> None:
        outcome = self.study.end(number, ending)
        self.progress.ended(outcome, self._line(number), self._best())
        self.record.ended(self.study.study, self.study.trials[number])
        self.tidy()
        if reason := same_failure(self.study.trials):
            where = f"{self.plan.place / TRIALS / f'{number:03d}'}"
            self.failure = f"the first trials failed, all for one reason: {reason}; see {where}"

    def winner(self) -> FrozenTrial | None:
        """The best trial; of a Pareto front the first that keeps the limits, or comes nearest."""
        return pick_winner(self.plan.sweep, self.study.study)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the trials that are running hear that the sweep is to end."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(POLL_S):
                if self._is_ending:
                    for launch in list(self._running.values()):
                        with suppress(StorageError):  # it is wished again
                            stop_run(launch)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            with stop_on_signal(self.plan.folder):
                yield
        finally:
            done.set()
            thread.join()

    def _best(self) -> str:
        if (trial := self.winner()) is None:
            return ""
        return f"{trial.values[0]:.4f} ({trial.number:03d}: {short(self.study.values(trial))})"

    def _line(self, number: int) -> str:
        trial = self.study.trials[number]
        reached = "  ".join(f"{value:.4f}" for value in last(self.study.study, trial))
        value = reached or trial.user_attrs.get("reason", "")[:60]
        settings = short(self.study.values(trial))
        return f"{number:03d}  {outcome_of(trial):<13}  {value:<8}  {settings}"

    def tidy(self) -> None:
        """``best`` names the winner's folder, and ``best.yaml`` has its settings; checkpoints
        that can no longer win are removed."""
        if winner := self.winner():
            write_pointer(self.plan.folder / WINNER, f"{TRIALS}/{winner.number:03d}")
            write_settings(self.plan.folder / WINNERS_SETTINGS, self.study.values(winner))
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
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    text = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
    path.write_text(f"# The best trial of this sweep.\n{text}", encoding="utf-8")

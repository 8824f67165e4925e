"""A sweep's own record: the parent of its trials' runs, with the table and plots of them all."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import torch
from optuna import Study
from optuna.trial import FrozenTrial

from dimts.bundles.fetch import local_bundle
from dimts.launch.settings import Launch
from dimts.storage.mirror import Mirror
from dimts.storage.paths import AnyPath, StoragePath
from dimts.tracking.config import TrackingConfig
from dimts.tracking.cursor import Cursor
from dimts.tracking.mlflow_thread import sync
from dimts.tracking.tracker import Status, Tracker
from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import final
from dimts.tuning.plots import write_page
from dimts.tuning.remote_sweep import TRIALS
from dimts.tuning.report import (
    exhausted_line,
    limits_line,
    pick_winner,
    short,
    summary,
    trials_table,
)

if TYPE_CHECKING:
    from dimts.tuning.sweep import Plan

ANSWER_S = 20.0
"""How long the first trials wait for the store to say what they are to be nested under."""
FETCHED = ".winner"
"""The winner's voice where trials are in object storage; hidden, so that it is not sent back."""
TABLE = "trials.csv"
PAGE = "plots.html"

log = logging.getLogger(__name__)


class SweepLogger:
    """Begun and ended as a context; its events are in the sweep's folder.

    Attributes:
        is_complete: to be set when all trials have ended.
    """

    def __init__(self, plan: Plan, study: Study):
        self.plan, self.study = plan, study
        self.is_complete = False
        config = plan.tracking.model_copy(
            update={"registered_model": plan.tracking.registered_model or plan.voice}
        )
        self._tracker = Tracker(config, plan.folder)
        self._tags = {"dimts.sweep": plan.title}

    def __enter__(self) -> Self:
        plan = self.plan
        self._tracker.start(plan.title, plan.params, plan.config_yaml, self._tags)
        if parent := self._tracker.wait_for_run_id(ANSWER_S):
            self._tags["mlflow.parentRunId"] = parent
        elif plan.tracking.enabled:
            log.warning(
                "tracking: no answer from the store yet: the trials' runs will not be nested, "
                "but carry the tag dimts.sweep=%s",
                plan.title,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status: Status = "FAILED" if kind else "FINISHED" if self.is_complete else "KILLED"
        self._tracker.finish(status)

    def nest(self, number: int, values: Mapping[str, Any], launch: Launch) -> Launch:
        """A trial's run with a name that a person can read, below the sweep's."""
        tags = self._tags | {"dimts.trial": str(number)}
        title = f"{self.plan.sweep.name} {number:03d}: {short(values)}"
        return launch.model_copy(update={"tags": tags, "title": title[:200]})

    def ended(self, trial: FrozenTrial) -> None:
        """A trial ended: its objectives, the best so far, the table as it is now."""
        names = self.plan.sweep.objectives
        metrics = {f"trial/{n}": v for n, v in zip(names, final(trial), strict=False)}
        if best := pick_winner(self.plan.sweep, self.study):
            metrics |= {f"best/{n}": v for n, v in zip(names, best.values, strict=True)}
        # Counted as they end, which of two at a time is not always in the order of their numbers.
        n_ended = sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))
        self._tracker.log_metrics(metrics, n_ended)
        self._log_table()

    def conclude(self, winner: Launch | None) -> dict[str, float]:
        """Record plots of all trials, and the winner's voice as a model; its held-out metrics."""
        self._log_table()
        write_page(self.study, self.plan.metrics, self.plan.folder / PAGE)
        self._tracker.log_artifact(self.plan.folder / PAGE)
        metrics = self._log_winner(winner) if winner else {}
        said = note(self.plan.sweep, self.study, int(winner.name) if winner else None)
        self._tracker.set_tags({"mlflow.note.content": said})
        if self.plan.tracking.enabled:
            self._send_what_waits()
        return metrics

    def _log_winner(self, winner: Launch) -> dict[str, float]:
        best = local_bundle(winner.place)
        if not best.is_relative_to(self.plan.folder):  # it is in object storage
            shutil.rmtree(self.plan.folder / FETCHED, ignore_errors=True)
            best = Path(shutil.copytree(best, self.plan.folder / FETCHED))
        metrics, before = winner.family.held_out(winner.settings, best, torch.device("cpu"))
        step = self.study.trials[int(winner.name)].user_attrs["step"]
        if before:
            self._tracker.log_metrics(before, 0)
        self._tracker.log_metrics(metrics, step)
        self._tracker.log_model(best, metrics, step)
        return metrics

    def _log_table(self) -> None:
        trials_table(self.study).to_csv(self.plan.folder / TABLE, index=False)
        self._tracker.log_artifact(self.plan.folder / TABLE)

    def _send_what_waits(self) -> None:
        """Events of trials that the store did not take while they ran."""
        trial = self.plan.place / TRIALS
        try:
            for n in range(len(self.study.trials)):
                trial = self.plan.place / TRIALS / f"{n:03d}"
                send(self.plan.tracking, trial)
        except Exception as error:  # whatever the store does, the sweep has ended well
            log.warning("tracking: records wait in %s: %s", trial, error)


def send(config: TrackingConfig, trial: AnyPath) -> None:
    """Send what waits in a trial's folder."""
    if isinstance(trial, StoragePath):
        with TemporaryDirectory() as folder:
            local = Path(folder, trial.name)
            mirror = Mirror(local, trial, lambda name: not name.startswith("checkpoint_"))
            mirror.pull()
            try:
                send(config, local)
            finally:
                mirror.push()
    elif Cursor(trial).n_waiting():
        sync(config, trial)


def note(sweep: SweepConfig, study: Study, winner: int | None) -> str:
    """What a person reads of the sweep first: how it went, and which trial's voice it gave."""
    trials = study.get_trials(deepcopy=False)
    parts = [summary(study), exhausted_line(sweep, trials)]
    if winner is not None:
        parts.append(f"The voice is that of trial {winner:03d}.")
        parts.append(limits_line(sweep, trials[winner]))
    return "\n\n".join(filter(None, parts))

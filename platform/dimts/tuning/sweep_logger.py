"""A sweep's own record: the parent of its trials' runs, with the table and plots of them all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from optuna import Study
from optuna.trial import FrozenTrial

from dimts.bundles.fetch import local_bundle
from dimts.launch.settings import Launch
from dimts.storage.mirror import Mirror
from dimts.storage.paths import AnyPath
from dimts.tracking.mlflow_run import RUN_FILE
from dimts.tracking.mlflow_tracker import SPOOL, MlflowTracker, sync
from dimts.tracking.spool import Spool
from dimts.tuning.config import SweepConfig
from dimts.tuning.distinct import exhausted_line
from dimts.tuning.plots import write_page
from dimts.tuning.remote_sweep import TRIALS
from dimts.tuning.report import limits_line, pick_winner, short, summary, trials_table

if TYPE_CHECKING:
    from dimts.tuning.sweep import Plan

ANSWER_S = 20.0
"""How long the first trials wait for the store to say what they are to be nested under."""
PARENT = "mlflow.parentRunId"
TABLE = "trials.csv"
PAGE = "plots.html"

log = logging.getLogger(__name__)


class SweepRecord:
    """Begun and ended as a context; does nothing where tracking is off, but for files.

    Args:
        plan: of the sweep.
        study: its trials.

    Attributes:
        is_complete: to be set when all trials have ended.
    """

    def __init__(self, plan: Plan, study: Study):
        self.plan, self.study = plan, study
        self.is_complete = False
        self._tracker: MlflowTracker | None = None
        self._parent: str | None = None

    def __enter__(self) -> Self:
        plan = self.plan
        if plan.tracking.enabled:
            config = plan.tracking.model_copy(
                update={"registered_model": plan.tracking.registered_model or plan.voice}
            )
            self._tracker = MlflowTracker(config)
            tags = {"dimts.sweep": plan.title}
            self._tracker.start(plan.title, plan.folder, plan.params, plan.config_yaml, tags)
            self._parent = self._tracker.wait_for_run_id(ANSWER_S)
            if self._parent is None:
                log.warning(
                    "tracking: no answer from the store yet: the trials' runs will not be nested, "
                    "but carry the tag dimts.sweep=%s",
                    plan.title,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._tracker:
            status = "FAILED" if error else "FINISHED" if self.is_complete else "KILLED"
            self._tracker.finish(status)  # type: ignore[arg-type]

    def nest(self, number: int, values: Mapping[str, Any], launch: Launch) -> Launch:
        """A trial's run with a name that a person can read, below the sweep's."""
        tags = {"dimts.sweep": self.plan.title, "dimts.trial": str(number)}
        if self._parent:
            tags[PARENT] = self._parent
        title = f"{self.plan.sweep.name} {number:03d}: {short(values)}"
        return launch.model_copy(update={"tags": tags, "title": title[:200]})

    def ended(self, study: Study, trial: FrozenTrial) -> None:
        """A trial ended: its objectives, the best so far, the table as it is now."""
        if not self._tracker:
            return
        names = self.plan.sweep.objectives
        figures = {f"trial/{n}": v for n, v in zip(names, trial.values or (), strict=False)}
        if best := pick_winner(self.plan.sweep, study):
            figures |= {f"best/{n}": v for n, v in zip(names, best.values, strict=True)}
        # Counted as they end, which of two at a time is not always in the order of their numbers.
        n_ended = sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
        self._tracker.log_metrics(figures, n_ended)
        self._log_table()

    def conclude(self, winner: Launch | None) -> dict[str, float]:
        """Table and plots of all trials; the winner's voice as a model, with its figures.

        Returns:
            Held-out figures of the winner, the test split and what is forgotten among them.
        """
        self._log_table()
        write_page(self.study, self.plan.metrics, self.plan.folder / PAGE)
        self._log(self.plan.folder / PAGE)
        figures: dict[str, float] = {}
        if winner:
            figures = self._log_winner(winner)
        if self._tracker:
            said = note(self.plan.sweep, self.study, int(winner.name) if winner else None)
            self._tracker.set_tags({"mlflow.note.content": said})
            self._send_what_waits()
        return figures

    def _log_winner(self, winner: Launch) -> dict[str, float]:
        best = local_bundle(winner.place)
        figures, before = winner.family.held_out(winner.settings, best, torch.device("cpu"))
        if self._tracker:
            step = self.study.trials[int(winner.name)].user_attrs["step"]
            if before:
                self._tracker.log_metrics(before, 0)
            self._tracker.log_metrics(figures, step)
            self._tracker.log_model(best, figures, step)
        return figures

    def _log_table(self) -> None:
        trials_table(self.study).to_csv(self.plan.folder / TABLE, index=False)
        self._log(self.plan.folder / TABLE)

    def _log(self, path: Path) -> None:
        if self._tracker:
            self._tracker.log_artifact(path)

    def _send_what_waits(self) -> None:
        """Records of trials that the store did not take while they ran."""
        where = trials = self.plan.place / TRIALS
        try:
            for name in _with_records(trials):
                where = trials / name
                with _here(where) as run_dir:
                    if Spool(run_dir / SPOOL, 0).n_pending():
                        sync(self.plan.tracking, run_dir)
        except Exception as error:  # whatever the store does, the sweep has ended well
            log.warning("tracking: records wait in %s: %s", where, error)


def note(sweep: SweepConfig, study: Study, winner: int | None) -> str:
    """What a person reads of the sweep first: how it went, and which trial's voice it gave."""
    trials = study.get_trials(deepcopy=False)
    parts = [summary(study), exhausted_line(sweep, trials)]
    if winner is not None:
        parts.append(f"The voice is that of trial {winner:03d}.")
        parts.append(limits_line(sweep, trials[winner]))
    return "\n\n".join(filter(None, parts))


def _with_records(trials: AnyPath) -> list[str]:
    """Names of the trials that may have records to send."""
    if isinstance(trials, Path):
        return sorted(folder.parent.name for folder in trials.glob(f"*/{SPOOL}"))
    found = (entry.name.split("/") for entry in trials.entries())
    return sorted({n for n, *file in found if file[:1] == [SPOOL] and _is_to_be_sent(file[1:])})


def _is_to_be_sent(file: list[str]) -> bool:
    """Whether a spool may have it for a record that was not sent."""
    return file[0] == "files" or file[0].endswith(".jsonl")


@contextmanager
def _here(trial: AnyPath) -> Iterator[Path]:
    """Inside, this machine has a trial's records; what was sent then goes from the copy, too."""
    if isinstance(trial, Path):
        yield trial
        return

    def is_record(name: str) -> bool:
        return name.split("/")[0] in (SPOOL, RUN_FILE)

    with TemporaryDirectory() as folder:
        mirror = Mirror(Path(folder) / trial.name, trial, is_record)
        mirror.pull()
        try:
            yield mirror.folder
        finally:
            mirror.push()

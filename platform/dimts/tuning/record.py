"""A sweep's own record: the parent of its trials' runs, with the tables and plots of them all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from optuna import Study
from optuna.trial import FrozenTrial

from dimts.launch.figures import forgetting_figures, held_out_figures
from dimts.launch.settings import Launch
from dimts.tracking.spool import Spool
from dimts.training.checkpoint import BEST
from dimts.training.data import open_data
from dimts.training.remote_bundle import fetch_bundle
from dimts.tuning.plots import write_plots
from dimts.tuning.remote_sweep import TRIALS
from dimts.tuning.report import front, short, summary, write_csv, write_html

if TYPE_CHECKING:
    from dimts.tracking.mlflow_tracker import MlflowTracker
    from dimts.tuning.sweep import Plan

ANSWER_S = 20.0
"""How long the first trials wait for the store to say what they are to be nested under."""
PARENT = "mlflow.parentRunId"

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
            from dimts.tracking.mlflow_tracker import MlflowTracker

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
        values = dict(zip(self.plan.sweep.objectives, trial.values or (), strict=False))
        figures = {f"trial/{name}": value for name, value in values.items()}
        if best := front(study):
            names = self.plan.sweep.objectives
            figures |= {f"best/{n}": v for n, v in zip(names, best[0].values, strict=True)}
        # Counted as they end, which of two at a time is not always in the order of their numbers.
        n_ended = sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
        self._tracker.log_metrics(figures, n_ended)
        self._log_tables()

    def conclude(self, winner: Launch | None) -> dict[str, float]:
        """Tables and plots of all trials; the winner's voice as a model, with its figures.

        Returns:
            Held-out figures of the winner, the test split and what is forgotten among them.
        """
        self._log_tables()
        for plot in write_plots(self.study, self.plan.folder / "plots"):
            self._log(plot, "plots")
        figures: dict[str, float] = {}
        if winner:
            figures = self._log_winner(winner)
        if self._tracker:
            picked = f"\n\nThe voice is that of trial {winner.name}." if winner else ""
            self._tracker.set_tags({"mlflow.note.content": summary(self.study) + picked})
            self._send_what_waits()
        return figures

    def _log_winner(self, winner: Launch) -> dict[str, float]:
        data, best = open_data(winner.settings), (winner.run_dir / BEST).resolve()
        if winner.remote:
            best = fetch_bundle(winner.remote)
        figures = held_out_figures(winner, data, best)
        before, after = forgetting_figures(winner, data, best)
        figures |= after
        if self._tracker:
            step = self.study.trials[int(winner.name)].user_attrs["step"]
            if before:
                self._tracker.log_metrics(before, 0)
            self._tracker.log_metrics(figures, step)
            self._tracker.log_model(best, figures, step)
        return figures

    def _log_tables(self) -> None:
        for write, name in ((write_csv, "trials.csv"), (write_html, "trials.html")):
            write(self.study, self.plan.folder / name)
            self._log(self.plan.folder / name)

    def _log(self, path: Path, folder: str = "") -> None:
        if self._tracker:
            self._tracker.log_artifact(path, folder)

    def _send_what_waits(self) -> None:
        """Records of trials that the store did not take while they ran."""
        from dimts.tracking.mlflow_tracker import SPOOL, sync

        for run_dir in sorted((self.plan.folder / TRIALS).glob("*")):
            if not (run_dir / SPOOL).is_dir() or not Spool(run_dir / SPOOL, 0).n_pending():
                continue
            try:
                sync(self.plan.tracking, run_dir)
            except Exception as error:  # whatever the store does, the sweep has ended well
                log.warning("tracking: records wait in %s: %s", run_dir, error)
                return

"""A sweep as tables and lines: which trials are best, and what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from pandas import DataFrame

from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import (
    DRAWN,
    METRICS,
    final,
    is_known_good,
    named,
    objectives,
    outcome,
    parameters,
    signs,
    text,
)
from dimts.tuning.space import count_settings, identities
from dimts.tuning.study import PASSED, STOPS, VALUES

_INTERNAL = (VALUES, DRAWN, PASSED, STOPS, METRICS, "outcome")
"""Attributes of trials that the table leaves out, or has in a column of its own."""


def best_first(study: Study) -> list[FrozenTrial]:
    """Trials that ran to their end: those of the Pareto front, then the others.

    The best in the first objective is first, of equals the earliest. A trial that was stopped
    early may have a lower loss than all of them, but not at the same budget.
    """
    on_front, sign = {trial.number for trial in study.best_trials}, signs(study)[0]
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda t: (t.number not in on_front, sign * t.values[0], t.number))


def front(study: Study) -> list[FrozenTrial]:
    """The best trial, or those of the Pareto front, best in the first objective first."""
    n = 1 if len(study.directions) == 1 else len(study.best_trials)
    return best_first(study)[:n]


def excess(sweep: SweepConfig, trial: FrozenTrial) -> float:
    """By how much a trial that ran to its end is beyond the limits; 0: it keeps them."""
    beyond = 0.0
    for (name, direction), value in zip(sweep.objectives.items(), trial.values, strict=True):
        if name in sweep.limits:
            over = value - sweep.limits[name]
            beyond += max(0.0, over if direction == "minimize" else -over)
    return beyond


def pick_winner(sweep: SweepConfig, study: Study) -> FrozenTrial | None:
    """The best trial; of a Pareto front the first that keeps the limits, or comes nearest."""
    return min(front(study), key=lambda trial: excess(sweep, trial), default=None)


def exhausted_line(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> str:
    """That the space has fewer settings than the sweep was to have trials; else it is empty."""
    n = count_settings(sweep.space, sweep.trials)
    if n == sweep.trials:
        return ""
    how, which = "all were tried", "them"
    if len(identities(sweep.space, trials)) < n:
        how, which = "each of which is tried once", "some of them"
    return (
        f"the space has {n} distinct setting{'' if n == 1 else 's'}, {how}; "
        f"sweep.trials={sweep.trials} would train {which} again"
    )


def limits_line(sweep: SweepConfig, winner: FrozenTrial) -> str:
    """That no trial keeps the limits, if the winner does not; else it is empty."""
    if not excess(sweep, winner):
        return ""
    reached = dict(zip(sweep.objectives, winner.values, strict=True))
    limits = " and ".join(f"limits.{name}={limit:g}" for name, limit in sweep.limits.items())
    nearest = " and ".join(text(reached[name], 4) for name in sweep.limits)
    return f"no trial keeps {limits}; the nearest has {nearest}"


def short(params: Mapping[str, Any]) -> str:
    """Settings as one line: ``lr 0.0021, batch 8, freeze n_base``."""
    names = named(params)
    return ", ".join(f"{names[path]} {text(value)}" for path, value in params.items())


def trials_table(study: Study) -> DataFrame:
    """One row a trial, in their order; what a trial does not have is missing.

    Objectives are those of complete trials alone.
    """
    table = study.trials_dataframe(("number", "values", "params", "user_attrs"), multi_index=True)
    table.columns = [column[1] or column[0] for column in table.columns]
    trials = study.get_trials(deepcopy=False)
    for name in table.columns.intersection(objectives(study)):
        table.loc[[not final(trial) for trial in trials], name] = None
    measured = DataFrame([trial.user_attrs.get(METRICS, {}) for trial in trials])
    table = table.drop(columns=list(_INTERNAL), errors="ignore").join(
        measured.drop(columns=objectives(study), errors="ignore")
    )
    table.insert(min(1, table.shape[1]), "outcome", [outcome(trial) for trial in trials])
    table.insert(min(2, table.shape[1]), "known good", [is_known_good(trial) for trial in trials])
    return table.convert_dtypes()  # whole numbers stay whole beside missing ones


def summary(study: Study) -> str:
    """How many trials ended how, and what the best is, in one line."""
    outcomes = Counter(outcome(trial) for trial in study.get_trials(deepcopy=False))
    ways = ", ".join(f"{n} {name}" for name, n in outcomes.items())
    counts = f"{outcomes.total()} trials" + (f": {ways}" if ways else "")
    best = front(study)
    if not best:
        return f"{counts}; none ran to its end with finite metrics"
    values = zip(objectives(study), best[0].values, strict=True)
    reached = ", ".join(f"{name} {text(value, 4)}" for name, value in values)
    lead = "best" if len(best) == 1 else f"{len(best)} on the Pareto front, the first of them"
    return f"{counts}; {lead} is {best[0].number}: {reached} with {short(best[0].params)}"


def markdown_table(study: Study, n: int = 10) -> str:
    """The best `n` trials of those that ran to their end, as a Markdown table.

    With two objectives the whole Pareto front comes first, and a column says who is on it.
    """
    best, several = front(study), len(study.directions) > 1
    if not best:
        return summary(study) + "\n"
    shown = best_first(study)[: max(n, len(best))]
    names = named(parameters(shown))
    rows = []
    for trial in shown:
        row = {"trial": str(trial.number)}
        row |= {"front": "yes" if trial in best else ""} if several else {}
        row |= {name: text(v, 4) for name, v in zip(objectives(study), trial.values, strict=True)}
        row |= {n: text(trial.params[k]) if k in trial.params else "" for k, n in names.items()}
        row |= {"steps": text(trial.user_attrs.get("step", ""))}
        rows.append(row | {"known good": "yes" if is_known_good(trial) else ""})
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "".join(f"| {line} |\n" for line in cells)

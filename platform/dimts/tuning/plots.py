"""A sweep's plots: Optuna's own, below its summary and the table of its trials, on one page.

The page needs no other file and no network: plotly's script, 4.8 MB, stands in it once. MLflow
shows it in a frame that could load nothing from beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from dimts.core.metric import Metric
from dimts.tuning.outcomes import (
    DIVERGED,
    curve,
    is_known_good,
    named,
    objectives,
    outcome,
    parameters,
)
from dimts.tuning.report import summary, trials_table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MIN_COMPLETE = 8
"""Complete trials that importances need; with fewer, the order they give is mostly chance."""
FANOVA = FanovaImportanceEvaluator(seed=0)

_HEAD = """<!doctype html>
<html><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em }}
.table {{ overflow: auto; max-height: 60vh; white-space: nowrap }}
table {{ border-collapse: collapse }}
</style></head><body><h1>{title}</h1><p>{summary}</p><div class="table">{table}</div>
"""


def write_page(study: Study, metrics: Sequence[Metric], path: Path) -> None:
    """Write the page of a sweep, at any time of it; the first metric is what rungs compare."""
    table = trials_table(study).to_html(index=False, na_rep="", float_format="{:.4g}".format)
    title, said = escape(study.study_name), escape(summary(study))
    parts = [_HEAD.format(title=title, summary=said, table=table)]
    for n, figure in enumerate(draw(study, metrics)):
        how = {"include_plotlyjs": n == 0, "default_height": "480px"}
        parts.append(figure.to_html(full_html=False, config={"displaylogo": False}, **how))
    path.write_text("\n".join([*parts, "</body></html>\n"]), encoding="utf-8")


def draw(study: Study, metrics: Sequence[Metric]) -> list[Figure]:
    """Draw what the study has enough for.

    Trials that did not run to their end are only in the curves and in the timeline, where those
    that diverged are shown as failed.
    """
    from optuna import visualization as plots

    known = {metric.name: metric.title for metric in metrics}
    labels = [known.get(name, name) for name in objectives(study)]
    figures: list[Figure] = []
    if len(labels) == 2 and study.best_trials:
        figures.append(plots.plot_pareto_front(_shown(study, labels, [0, 1]), target_names=labels))
    for n, name in enumerate(labels):
        shown = _shown(study, labels, [n])
        if not shown.get_trials(states=(TrialState.COMPLETE,)):
            continue
        figures += [
            plots.plot_optimization_history(shown, target_name=name),
            plots.plot_slice(shown, target_name=name),
            plots.plot_parallel_coordinate(shown, target_name=name),
        ]
        if shares := importances(shown):
            figure = plots.plot_param_importances(shown, evaluator=FANOVA)
            figures.append(figure.update_layout(title=_importances_title(shown, shares)))
            two = list(shares)[:2]
            figures.append(plots.plot_rank(shown, params=two, target_name=name))
    shown = _shown(study, labels, [0])
    if any(trial.intermediate_values for trial in shown.trials):
        title = f"best {metrics[0].title} so far"
        figure = plots.plot_intermediate_values(shown)
        figures.append(figure.update_layout(xaxis_title="validation", yaxis_title=title))
    if shown.trials:
        figures.append(plots.plot_timeline(shown))
    return figures


def importances(study: Study) -> dict[str, float]:
    """Parameter -> share of what the one objective depends on, largest first; they add up to 1.

    By fANOVA (Hutter et al., 2014) over the complete trials alone; parameters that some of them do
    not have are left out. (Optuna's default, PED-ANOVA, looks at what tells the best tenth from
    the rest, two or three of a sweep's trials, and finds the parameter that matters less often.)

    Empty with fewer than `MIN_COMPLETE` complete trials, one parameter to rate, or one value.
    """
    values = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < MIN_COMPLETE or len(set(values)) == 1:
        return {}
    try:
        shares = get_param_importances(study, evaluator=FANOVA)
    except RuntimeError:  # no tree found a split
        return {}
    return shares if len(set(shares.values())) > 1 else {}


def _importances_title(study: Study, shares: dict[str, float]) -> str:
    trials = study.get_trials(deepcopy=False)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    title = f"What {objectives(study)[0]} depends on: fANOVA of the {complete} complete trials of "
    title += str(len(trials))
    if left_out := [name for name in parameters(trials) if name not in shares]:
        title += f"<br>not rated, as not all of them have it: {', '.join(left_out)}"
    return title


def _shown(study: Study, labels: Sequence[str], which: Sequence[int]) -> Study:
    """The study as it is drawn: some of its objectives, parameters by their short names.

    For studies of one objective alone Optuna draws curves, and shows which direction is better.
    """
    trials = study.get_trials(deepcopy=False)
    names = named(parameters(trials))
    shown = optuna.create_study(directions=[study.directions[n] for n in which])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        shown.set_metric_names([labels[n] for n in which])
    for trial in trials:
        state = TrialState.FAIL if outcome(trial) == DIVERGED else trial.state
        shown.add_trial(
            FrozenTrial(
                number=trial.number, trial_id=trial.number, state=state, value=None,
                values=[trial.values[n] for n in which] if trial.values else None,
                params={names[key]: value for key, value in trial.params.items()},
                distributions={names[key]: d for key, d in trial.distributions.items()},
                datetime_start=trial.datetime_start, datetime_complete=trial.datetime_complete,
                intermediate_values=curve(trial), system_attrs={},
                user_attrs={"outcome": outcome(trial), "known good": is_known_good(trial)},
            )
        )  # fmt: skip
    return shown

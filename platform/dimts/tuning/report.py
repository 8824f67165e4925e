"""A sweep as tables and lines: which trials are best, what they were, and what mattered."""

from __future__ import annotations

import csv
import html
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dimts.tuning.config import SweepConfig
from dimts.tuning.outcomes import (
    SHORT,
    curve,
    final,
    is_known_good,
    named,
    objectives,
    outcome,
    parameters,
    text,
)

FEWEST = 8
"""Complete trials that importances need; with fewer, the order they give is mostly chance."""

_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 1.5em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
th { cursor: pointer; position: sticky; top: 0; background: #f4f4f4 }
tr.best { background: #fff3c4; font-weight: bold } tr.other { color: #888 }
"""

_SORT = """
document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const sign = head.sign = head.sign === 1 ? -1 : 1;
  const body = document.querySelector("tbody"), key = row => row.cells[column].dataset.key;
  [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  }).forEach(row => body.append(row));
});
"""


def front(study: Study) -> list[FrozenTrial]:
    """The best trial, or those of the Pareto front, best in the first objective first.

    Only trials that ran to their end and reached finite values count: one that was stopped
    early may have a lower loss than they, but not at the same budget. Of equals the earliest.
    """
    trials = _ranked(study)
    if len(study.directions) == 1:
        return trials[:1]
    on_front: list[FrozenTrial] = []
    costs: list[tuple[float, ...]] = []
    for trial in trials:
        cost = _cost(study, trial)
        if not any(all(a <= b for a, b in zip(c, cost, strict=True)) for c in costs):
            on_front.append(trial)
            costs.append(cost)
    return on_front


def excess(sweep: SweepConfig, trial: FrozenTrial) -> float:
    """By how much a trial that ran to its end is beyond the limits; 0: it keeps them."""
    pairs = zip(sweep.objectives, trial.values, strict=True)
    return sum(max(0.0, v - sweep.limits[name]) for name, v in pairs if name in sweep.limits)


def best_first(study: Study) -> list[FrozenTrial]:
    """All trials that count, see `front`: those on it, then the others, best first."""
    best = front(study)
    return best + [trial for trial in _ranked(study) if trial not in best]


def pick_winner(sweep: SweepConfig, study: Study) -> FrozenTrial | None:
    """The best trial; of a Pareto front the first that keeps the limits, or comes nearest."""
    return min(front(study), key=lambda trial: excess(sweep, trial), default=None)


def limits_line(sweep: SweepConfig, winner: FrozenTrial) -> str:
    """That no trial keeps the limits, if the winner does not; else it is empty."""
    if not excess(sweep, winner):
        return ""
    reached = dict(zip(sweep.objectives, winner.values, strict=True))
    limits = " and ".join(f"limits.{name}={limit:g}" for name, limit in sweep.limits.items())
    nearest = " and ".join(text(reached[name], 4) for name in sweep.limits)
    return f"no trial keeps {limits}; the nearest has {nearest}"


def importances(study: Study, objective: int = 0) -> dict[str, float]:
    """Config path -> share of what an objective depends on, largest first; they add up to 1.

    By fANOVA (Hutter et al., 2014) over the complete trials alone. Optuna's default, PED-ANOVA,
    looks at what tells the best tenth from the rest, which for a sweep's few trials is two or
    three of them, and names the parameter that matters most far less often.

    A parameter that some complete trials do not have cannot be rated this way and is left out.
    Empty where there is nothing to go by: fewer than `FEWEST` complete trials, one parameter
    to rate, or one value in all.
    """
    values = [final(trial, objective) for trial in study.get_trials(deepcopy=False)]
    reached = [value for value in values if value is not None]
    if len(reached) < FEWEST or len(set(reached)) == 1:
        return {}

    def target(trial: FrozenTrial) -> float:
        return trial.values[objective]

    try:
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), target=target
        )
    except RuntimeError:  # No tree found a split.
        return {}
    shares = {path: float(share) for path, share in found.items()}
    return shares if len(shares) > 1 and len(set(shares.values())) > 1 else {}


def short(params: Mapping[str, Any]) -> str:
    """Settings as one line: ``lr 0.0021, batch 8, freeze n_base``."""
    names = named(params, SHORT)
    return ", ".join(f"{names[path]} {text(value)}" for path, value in params.items())


def trials_table(study: Study) -> list[dict[str, Any]]:
    """One row a trial, in their order; every row has the same keys in the same order.

    They are: number, outcome, whether the settings were known to be good, the objectives (of
    complete trials alone), other figures, parameters by config path, the validation loss at
    each rung, training steps, mel frames trained on, seconds, and a reason. What a trial does
    not have is None.
    """
    trials = study.get_trials(deepcopy=False)
    goals, paths = objectives(study), parameters(trials)
    figures = sorted({f for t in trials for f in t.user_attrs.get("figures", {})} - set(goals))
    rungs = sorted({rung for trial in trials for rung in curve(trial)})
    rows = []
    for trial in trials:
        attributes, reported = trial.user_attrs, curve(trial)
        measured = attributes.get("figures", {})
        row: dict[str, Any] = {"number": trial.number, "outcome": outcome(trial)}
        row["known good"] = is_known_good(trial)
        row |= {goal: final(trial, n) for n, goal in enumerate(goals)}
        row |= {figure: measured.get(figure) for figure in figures}
        row |= {path: trial.params.get(path) for path in paths}
        row |= {f"rung_{rung}": reported.get(rung) for rung in rungs}
        row |= {key: attributes.get(key) for key in ("step", "frames", "seconds", "reason")}
        rows.append(row)
    return rows


def write_csv(study: Study, path: Path) -> None:
    """Write the table of trials; its folder is made."""
    rows = trials_table(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["number", "outcome"])
        writer.writeheader()
        writer.writerows(rows)


def write_html(study: Study, path: Path) -> None:
    """Write the table as a page that needs no other file; a click on a head sorts by it.

    The rows of the front are marked, those that did not run to their end are grey.
    """
    rows, best = trials_table(study), {trial.number for trial in front(study)}
    names = named(parameters(study.get_trials(deepcopy=False)))
    heads = [(key, names.get(key, key.replace("_", " "))) for key in (rows[0] if rows else ())]
    title = html.escape(study.study_name)
    parts = [
        f"<!doctype html><html><head><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{html.escape(summary(study))}</p><table><thead><tr>",
        *(f"<th title='{html.escape(key)}'>{html.escape(name)}</th>" for key, name in heads),
        "</tr></thead><tbody>",
    ]
    for row in rows:
        other = "" if row["outcome"] == "finished" else " class='other'"
        mark = " class='best'" if row["number"] in best else other
        parts.append(f"<tr{mark}>{''.join(_cell(value) for value in row.values())}</tr>")
    parts.append(f"</tbody></table><script>{_SORT}</script></body></html>\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def counts(study: Study) -> str:
    """How many trials ended how: ``30 trials: 12 finished, 18 stopped early``."""
    outcomes = Counter(outcome(trial) for trial in study.get_trials(deepcopy=False))
    ways = ", ".join(f"{n} {name}" for name, n in outcomes.items())
    return f"{outcomes.total()} trials" + (f": {ways}" if ways else "")


def summary(study: Study) -> str:
    """What `counts` says, and what the best is, in one line."""
    best = front(study)
    if not best:
        return f"{counts(study)}; none ran to its end with finite figures"
    figures = zip(objectives(study), best[0].values, strict=True)
    reached = ", ".join(f"{name} {text(value, 4)}" for name, value in figures)
    lead = "best" if len(best) == 1 else f"{len(best)} on the Pareto front, the first of them"
    return f"{counts(study)}; {lead} is {best[0].number}: {reached} with {short(best[0].params)}"


def markdown_table(study: Study, n: int = 10) -> str:
    """The best `n` trials of those that ran to their end, as a Markdown table.

    With two objectives the whole Pareto front comes first, and a column says who is on it.
    """
    best, several = front(study), len(study.directions) > 1
    if not best:
        return summary(study) + "\n"
    shown = best_first(study)[: max(n, len(best))]
    paths = parameters(shown)
    heads = ["trial", *(["front"] if several else []), *objectives(study)]
    heads += [*named(paths, SHORT).values(), "steps", "known good"]
    rows = [heads, ["---"] * len(heads)]
    for trial in shown:
        row = [str(trial.number), *(["yes" if trial in best else ""] if several else [])]
        row += [text(value, 4) for value in trial.values]
        row += [text(trial.params[path]) if path in trial.params else "" for path in paths]
        row += [text(trial.user_attrs.get("step", "")), "yes" if is_known_good(trial) else ""]
        rows.append(row)
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def _cost(study: Study, trial: FrozenTrial) -> tuple[float, ...]:
    """Its objectives, turned so that lower is better."""
    return tuple(
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(trial.values, study.directions, strict=True)
    )


def _ranked(study: Study) -> list[FrozenTrial]:
    """Trials that ran to their end with finite values, best in the first objective first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finite = [trial for trial in complete if all(math.isfinite(v) for v in trial.values)]
    return sorted(finite, key=lambda trial: (_cost(study, trial), trial.number))


def _cell(value: Any) -> str:
    """A cell that knows what it is sorted by; numbers are shown shorter than they are."""
    if value is None:
        return "<td data-key=''></td>"
    key = str(int(value)) if isinstance(value, bool) else str(value)
    shown = text(value, 4)
    return f"<td data-key='{html.escape(key)}'>{html.escape(shown)}</td>"

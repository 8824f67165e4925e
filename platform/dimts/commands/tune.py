"""Search for the best voice: ``dimts tune --config VOICE.yaml --config SPACE.yaml``.

SPACE.yaml is one of search_spaces/, or your own. A sweep that was interrupted, by whatever, goes
on when the same command is given again. Ctrl-C ends it with checkpoints.
"""

from __future__ import annotations

from dimts.cli import config_parser
from dimts.commands.report import metrics_table
from dimts.commands.sweep_config import load_sweep
from dimts.core.errors import ConfigError
from dimts.core.ray_session import check_ray
from dimts.families.protocol import Family
from dimts.tracking.cursor import Cursor
from dimts.tuning.report import exhausted_line, limits_line, markdown_table
from dimts.tuning.study import SweepStudy
from dimts.tuning.sweep import WINNER, WINNERS_SETTINGS, Plan, SweepResult, run_sweep


def main() -> None:
    """Run the sweep and say what it found."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_sweep(arguments.config, arguments.overrides)
    check_ray()
    try:
        plan = config.plan()
    except ConfigError as error:
        raise ConfigError(f"{', '.join(arguments.config)}: {error}") from error
    print_sweep(config.of_family, plan, run_sweep(plan))


def print_sweep(family: Family, plan: Plan, result: SweepResult) -> None:
    """The best trials, the winner's metrics, and where to go on."""
    if not result.is_complete:
        print("stopped; give the same command again to go on")
        return
    study = SweepStudy(plan.sweep, plan.folder)
    print(f"\n{markdown_table(study.study)}\n")
    if line := exhausted_line(plan.sweep, study.trials):
        print(line)
    if result.best is None:
        print("no trial ran to its end, so there is no voice to pick")
        return
    parts = (limits_line(plan.sweep, result.best), metrics_table(family, result.metrics))
    for part in filter(None, parts):
        print(part)
    print(
        f"voice: {plan.place / WINNER}\n"
        f"its settings: --config {plan.folder / WINNERS_SETTINGS}\n"
        f"tables and plots: {plan.place}"
    )
    if plan.tracking.enabled:
        name = plan.tracking.registered_model or plan.voice
        registered = f"models:/{name}@candidate"
        if Cursor(plan.folder).n_waiting():
            print(f"its record waits; once it is sent, it is registered as {registered}")
        else:
            print(f"registered as {registered}; dimts promote makes it champion")

"""Make a registered voice the champion, if it is better than the one that is and keeps the limits.

dimts promote --config jobs/configs/VOICE.yaml
dimts promote --config jobs/configs/VOICE.yaml --version 3 --dry-run

Both speak the test split of the voice's features, and the languages of the base where
base.features are configured; without them a voice that comes from a base is not promoted.
Exit status: 0 if the voice is the champion now, 1 if it is not.
"""

from __future__ import annotations

import argparse

from dimts.cli import config_parser
from dimts.commands.report import table
from dimts.commands.voice_config import family_in, load_voice
from dimts.core.config import build_config, read_settings
from dimts.core.errors import UserError
from dimts.core.metric import Metric
from dimts.evaluation.compare import Difference, in_common, not_better, paired_difference
from dimts.families.protocol import Measured
from dimts.families.registry import get_family
from dimts.launch.promotion import finish_promotion, save_promotion
from dimts.launch.run_logger import device_of
from dimts.tracking.config import TrackingConfig
from dimts.tracking.listeners import listeners_against
from dimts.tracking.mlflow_model import resolve_model
from dimts.tracking.registry import CANDIDATE, CHAMPION, Registry, Version


def main() -> int:
    """Compare, decide, promote."""
    arguments = _parser().parse_args()
    config = load_voice(arguments.config, arguments.overrides)
    family = config.of_family
    shown = [metric for metric in family.metrics if "promotion" in metric.tables]
    limits = build_config(
        family.Limits, {key: getattr(arguments, key) for key in family.Limits.model_fields}
    )
    name = arguments.name or config.tracking.registered_model or config.run.name
    registry = Registry(config.tracking, name)
    number = arguments.version
    candidate = registry.get(CANDIDATE) if number is None else registry.version(str(number))
    champion = registry.find(CHAMPION)
    if champion and champion.number == candidate.number:
        if not arguments.dry_run:
            finish_promotion(registry, champion)
        print(f"version {candidate.number} is models:/{name}@{CHAMPION} already")
        print(how_to_speak(name, config.tracking))
        return 0
    heard: list[str] = []
    if champion and arguments.require:
        heard = listeners_against(candidate, champion, arguments.config)
    settings = config.launch().settings
    measure = family.for_promotion(settings, device_of(config.ray.gpu))

    def measured(version: Version, is_candidate: bool) -> Measured:
        what = f"{version.name} version {version.number}"
        return measure(resolve_model(version.uri, config.tracking), what, is_candidate)

    ours = measured(candidate, is_candidate=True)
    theirs = measured(champion, is_candidate=False) if champion else None
    decides, difference = ours.decides or family.decides, None
    if theirs and len(ours.ids):
        both = in_common(ours, theirs)
        if not len(both[0].ids):
            raise UserError(f"{decides.label}: was not measured on any sentence of both voices")
        difference = paired_difference(*both)
    models = {f"{CANDIDATE} v{candidate.number}": ours.metrics}
    if champion and theirs:
        models[f"{CHAMPION} v{champion.number}"] = theirs.metrics
    title, *lines = table(f"held-out, {len(ours.ids)} utterances", models, shown, width=16)
    if difference:
        title += "   difference (95 %)"
        lines = [f"{o}   {difference}" if o.startswith(decides.label) else o for o in lines]
    print(title, *lines, sep="\n")
    if config.base and not getattr(config.base, "features", True):
        print("what was forgotten is not measured: base.features names no sets")
    against = family.objections(ours.metrics, limits)
    against += family.regressions(settings, ours.metrics, theirs.metrics if theirs else None)
    if difference:
        against = not_better(decides, difference, limits.margin) + against
    against += heard
    if not arguments.without_forgetting:
        against += ours.unmeasured
    if not arguments.dry_run:
        kept = {m.name: ours.metrics[m.name] for m in shown if m.name in ours.metrics}
        compared = (decides.name, difference) if difference else None
        save_promotion(registry, candidate, champion, kept, len(ours.ids), compared, against)
    if against:
        stays = f" (version {champion.number} stays the champion)" if champion else ""
        print(f"version {candidate.number} is not promoted: {'; '.join(against)}{stays}")
        return 1
    done = f"{'would be' if arguments.dry_run else 'is now'} models:/{name}@{CHAMPION}"
    print(f"version {candidate.number} {done}: {verdict(decides, champion, difference)}")
    print(how_to_speak(name, config.tracking))
    return 0


def _parser() -> argparse.ArgumentParser:
    """With options for the limits of the family that the configuration names."""
    named, _ = config_parser("", "", add_help=False, allow_abbrev=False).parse_known_args()
    family = get_family(family_in(*read_settings(named.config or [], named.overrides)))
    parser = config_parser(__doc__ or "")
    parser.add_argument(
        "--name", help="registered model (default: tracking.registered_model, else run.name)"
    )
    parser.add_argument(
        "--version", type=int, metavar="N", help=f"of the model (default: alias {CANDIDATE})"
    )
    for key, field in family.Limits.model_fields.items():
        parser.add_argument(
            f"--{key.replace('_', '-')}", type=float, default=field.default, metavar="VALUE",
            help=f"{field.description} (default: {field.default:g})",
        )  # fmt: skip
    parser.add_argument(
        "--without-forgetting", action="store_true",
        help="promote a voice from a base also if what it forgot cannot be measured",
    )  # fmt: skip
    parser.add_argument(
        "--require", choices=("listeners",),
        help="promote only if listeners have compared it with the champion, and do not find it "
        "worse (docs/studio.md)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="compare, and change nothing")
    return parser


def verdict(decides: Metric, champion: Version | None, difference: Difference | None) -> str:
    """Why a candidate is promoted."""
    if not (difference and champion):
        return "it keeps the limits, and there was no champion"
    unit = f" {decides.unit}".rstrip()
    return f"{abs(difference.mean):.3f}{unit} better than version {champion.number}"


def how_to_speak(name: str, tracking: TrackingConfig) -> str:
    """The command that speaks with the champion."""
    where = ""
    if tracking.uri != TrackingConfig().uri:
        where = f" --tracking-uri {tracking.shown}"
    return f'speak with it: dimts synthesize --model models:/{name}@{CHAMPION}{where} --text "..."'

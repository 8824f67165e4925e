"""Make a registered voice the champion, if it is better than the one that is and keeps the limits.

dimts promote --config jobs/configs/VOICE.yaml
dimts promote --config jobs/configs/VOICE.yaml --version 3 --dry-run

Both speak the test split of the voice's features, and the languages of the base where
base.features are configured; without them a voice that comes from a base is not promoted.
Exit status: 0 if the voice is the champion now, 1 if it is not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dimts.cli import config_parser
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import build_config, load_config
from dimts.evaluation.compare import Difference, Limits, mcd_difference, objections
from dimts.launch.promotion import HeldOut, Measured, record, unmeasured
from dimts.tracking.config import TrackingConfig
from dimts.tracking.registry import CANDIDATE, CHAMPION, Registry, Version

ROWS = (
    ("mcd", "mel-cepstral distortion, dB", ".3f"),
    ("length_ratio", "total length / recorded", ".3f"),
    ("duration_error", "duration error, frames a token", ".3f"),
    ("base_mcd", "languages of the base, dB", ".3f"),
    ("forgetting", "  change against the base, dB", "+.3f"),
)


def main() -> int:
    """Compare, decide, promote."""
    arguments = _parser().parse_args()
    limits = build_config(Limits, {key: getattr(arguments, key) for key in Limits.model_fields})
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    name = arguments.name or config.tracking.registered_model or config.run.name
    registry = Registry(config.tracking, name)
    candidate = (
        registry.get(CANDIDATE)
        if arguments.version is None
        else registry.version(str(arguments.version))
    )
    champion = registry.find(CHAMPION)
    if champion and champion.number == candidate.number:
        print(f"version {candidate.number} is models:/{name}@{CHAMPION} already")
        print(how_to_speak(name, config.tracking))
        return 0
    held_out = HeldOut(config.launch())
    ours = held_out.measure(candidate, must_know_base=True)
    theirs = held_out.measure(champion, must_know_base=False) if champion else None
    difference = mcd_difference(ours.rows, theirs.rows) if theirs else None
    print(table(ours, theirs, difference))
    if config.base and not config.base.features:
        print("what was forgotten is not measured: base.features names no sets")
    against = objections(ours.quality, difference, limits)
    if not arguments.without_forgetting:
        against += unmeasured(ours)
    if not arguments.dry_run:
        record(registry, ours, champion, difference, against)
    print(verdict(candidate, champion, difference, against, arguments.dry_run))
    if against:
        return 1
    print(how_to_speak(name, config.tracking))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = config_parser(__doc__ or "")
    limits = Limits()
    parser.add_argument(
        "--name", help="registered model (default: tracking.registered_model, else run.name)"
    )
    parser.add_argument(
        "--version", type=int, metavar="N", help=f"of the model (default: alias {CANDIDATE})"
    )
    parser.add_argument(
        "--margin", type=float, default=limits.margin, metavar="DB",
        help=f"by which it must be better than the champion (default: {limits.margin:g})",
    )  # fmt: skip
    parser.add_argument(
        "--max-forgetting", type=float, default=limits.max_forgetting, metavar="DB",
        help=f"by which the base's languages may be worse (default: {limits.max_forgetting:g})",
    )  # fmt: skip
    parser.add_argument(
        "--length-tolerance", type=float, default=limits.length_tolerance, metavar="SHARE",
        help=f"total length may differ from the recorded by (default: {limits.length_tolerance:g})",
    )  # fmt: skip
    parser.add_argument(
        "--without-forgetting", action="store_true",
        help="promote a voice from a base also if what it forgot cannot be measured",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="compare, and change nothing")
    return parser


def table(ours: Measured, theirs: Measured | None, difference: Difference | None) -> str:
    """Figures of both voices side by side."""
    voices = [(CANDIDATE, ours), *([(CHAMPION, theirs)] if theirs else [])]
    heads = "".join(f"{f'{role} v{voice.version.number}':>16}" for role, voice in voices)
    title = f"held-out, {len(ours.rows)} utterances"
    lines = [f"{title:<34}{heads}" + ("   difference (95 %)" if difference else "")]
    for key, title, form in ROWS:
        found = [voice.figures.get(key) for _, voice in voices]
        if any(value is not None for value in found):
            cells = "".join(f"{'-' if v is None else format(v, form):>16}" for v in found)
            lines.append(f"{title:<34}{cells}")
    if difference:
        lines[1] += f"   {difference}"
    return "\n".join(lines)


def verdict(
    candidate: Version,
    champion: Version | None,
    difference: Difference | None,
    against: Sequence[str],
    dry_run: bool,
) -> str:
    """What became of the candidate, and why."""
    if against:
        stays = f" (version {champion.number} stays the champion)" if champion else ""
        return f"version {candidate.number} is not promoted: {'; '.join(against)}{stays}"
    why = "it keeps the limits, and there was no champion"
    if difference and champion:
        why = f"{-difference.mean:.3f} dB better than version {champion.number}"
    done = "would be" if dry_run else "is now"
    return f"version {candidate.number} {done} models:/{candidate.name}@{CHAMPION}: {why}"


def how_to_speak(name: str, tracking: TrackingConfig) -> str:
    """The command that speaks with the champion."""
    where = ""
    if tracking.uri != TrackingConfig().uri:
        where = f" --tracking-uri {tracking.shown}"
    return f'speak with it: dimts synthesize --model models:/{name}@{CHAMPION}{where} --text "..."'

"""The model card of a registered version: its description in MLflow, in Markdown.

The first part is made of the bundle when a version is registered. What follows `JUDGED` is made of
the version's tags each time they change; a person may edit what stands before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimts.core.printable import printable

JUDGED = "## How it was judged"
LIMITS = """## Limits

- Reads the languages above alone: a text with characters outside of their alphabets is refused.
- Speaks in the manner of its recordings, and was judged by what stands below alone.
- Is the voice of a person: use it as they agreed to, and tell listeners that it is a machine.
"""
MAX_CARD, MAX_CELL, MAX_METRICS = 5000, 200, 30
"""Characters that MLflow keeps, characters of a cell, and rows of a table."""


def described(bundle: Path, name: str, run_id: str, experiment_id: str) -> str:
    """What a bundle says of itself: data, languages, licence, limits."""
    import yaml

    from dimts.bundles.bundle import CONFIG, MANIFEST

    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    config = yaml.safe_load((bundle / CONFIG).read_text(encoding="utf-8")) or {}
    origin, speakers = manifest.get("origin", {}), manifest.get("speakers", [])
    known = list(dict.fromkeys(_languages(bundle, config, origin)))
    corpora = dict.fromkeys(str(c["path"]) for c in _values(config, "corpus") if "path" in c)
    facts = {
        "Languages": ", ".join(known),
        "Speakers": f"{len(speakers)}: {', '.join(speakers)}" if speakers else "one",
        "Data": f"{', '.join(corpora) or 'not stated'}; features {manifest['features']}",
        "Adapted from": origin.get("base", "nothing, it was trained from the start"),
        "Licence": (config.get("tracking") or {}).get("licence")
        or "not stated: set tracking.licence, or write it here",
        "Made by": f"dimts {manifest['dimts_version']}, family {manifest['family']}, step "
        f"{manifest['step']}; settings and curves: run {run_id}",
    }
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items() if value]
    place = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts"
    rows.append(f"| Listen | [samples of the run]({place}) |")
    lines = [f"# {_cell(name)}", "", "| | |", "| --- | --- |", *rows, "", LIMITS, ""]
    return "\n".join(lines)


def judged(tags: Mapping[str, str]) -> str:
    """What metrics, promotion and listeners say of a version, by its tags."""
    own = ("promotion.", "listeners.")
    metrics = {key: value for key, value in tags.items() if not key.startswith((*own, "mlflow."))}
    shown = sorted(metrics.items(), key=lambda of: not of[0].startswith("test/"))[:MAX_METRICS]
    lines = [JUDGED, ""]
    if shown:
        lines += ["| metric | held out |", "| --- | --- |"]
        lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in shown]
    if outcome := tags.get("promotion.outcome"):
        lines += ["", f"Promotion, {tags.get('promotion.at', '')[:10]}: {_cell(outcome)}; compared "
                  f"with version {tags.get('promotion.compared_with')}."]  # fmt: skip
    heard = [_heard(tags, key.removesuffix("_listeners")) for key in tags if
             key.startswith("listeners.") and key.endswith("_listeners")]  # fmt: skip
    return "\n".join([*lines, "", *(heard or ["No listeners have compared it yet."]), ""])


def updated(card: str, tags: Mapping[str, str]) -> str:
    """A card as a version has it, with what its tags say now."""
    return (card.partition(JUDGED)[0] + judged(tags))[:MAX_CARD]


def _heard(tags: Mapping[str, str], key: str) -> str:
    other, _, measure = key.removeprefix("listeners.").rpartition(".")
    low, high = tags.get(f"{key}_low"), tags.get(f"{key}_high")
    what = {"preferred": "share that prefers it", "points": "points above"}.get(measure, measure)
    return (
        f"- {tags[f'{key}_listeners']} listeners, beside {_cell(other)}: {what} "
        f"{tags.get(key)} (95 %: {low} to {high})"
    )


def _languages(bundle: Path, config: Any, origin: Mapping[str, str]) -> Iterator[str]:
    """Codes, of the tokenizer where it has them."""
    if (file := bundle / "tokenizer.json").exists():
        spec = json.loads(file.read_text(encoding="utf-8"))
        for known in spec.get("languages", []):
            yield str(known["language"]["code"])
    for section in _values(config, "text"):
        if section.get("language"):
            yield str(section["language"])
    if "language" in origin:
        yield origin["language"]


def _values(config: Any, key: str) -> Iterator[dict[str, Any]]:
    """Sections of a name, wherever they stand."""
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        if name == key and isinstance(value, dict):
            yield value
        elif isinstance(value, dict | list):
            yield from _values(value, key)


def _cell(text: Any) -> str:
    """One line without what Markdown or HTML would read."""
    shown = printable(str(text), MAX_CELL)
    return "".join(f"\\{c}" if c in "\\|<>[]`*" else c for c in shown)

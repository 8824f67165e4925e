"""What listeners said of a registered version, as its tags, and what it means for promotion.

A tag's key is ``listeners.NAME/NUMBER.MEASURE``: the version that it was compared with, and what
was measured; ``_low``, ``_high`` and ``_listeners`` follow the measure's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from dimts.core.errors import UserError
from dimts.tracking.mlflow_client import mlflow_key
from dimts.tracking.registry import Version

NEUTRAL = {"preferred": 0.5, "points": 0.0}
"""Measure -> its value where neither version is better: share of answers that prefer this version
(A/B), and by how many of 100 points it is rated higher (MUSHRA)."""
MIN_LISTENERS = 3
"""Fewer say nothing of others."""


def comparison_tags(
    other: str, measure: str, value: float, low: float, high: float, listeners: int
) -> dict[str, str]:
    """Tags of a version that was compared with another one (``NAME/NUMBER``)."""
    assert measure in NEUTRAL
    kept = {"": f"{value:.3f}", "_low": f"{low:.3f}", "_high": f"{high:.3f}"}
    kept["_listeners"] = str(listeners)
    return {_key(other, measure + end): text for end, text in kept.items()}


def listeners_against(
    candidate: Version, champion: Version, configs: Sequence[object]
) -> list[str]:
    """Why listeners speak against a candidate: the whole 95 % interval of a measure lies below its
    neutral value; empty if none does.

    Args:
        candidate, champion: versions of the registry.
        configs: files of settings, for the command that is named.

    Raises:
        UserError: at least `MIN_LISTENERS` have not compared the two yet; says which page to open.
    """
    other = f"{champion.name}/{champion.number}"

    def tag(name: str) -> float:
        text = candidate.tags.get(_key(other, name), "0")
        try:
            return float(text)
        except ValueError:
            raise UserError(
                f"version {candidate.number}: tag {_key(other, name)} is {text!r}, no number; "
                "log the result of the listeners again"
            ) from None

    found = [m for m in NEUTRAL if tag(f"{m}_listeners") >= MIN_LISTENERS]
    if not found:
        options = "".join(f" --config {file}" for file in configs)
        raise UserError(
            f"version {candidate.number}: {MIN_LISTENERS} listeners have not compared it with "
            f"version {champion.number} yet; let them, on the page Listen or Rate of `dimts studio"
            f"{options} --model {candidate.uri} --model {champion.uri}`, then `Log to MLflow` there"
        )
    return [
        f"listeners find it worse than version {champion.number}: {m} {tag(m):.3f} "
        f"({tag(f'{m}_low'):.3f} to {tag(f'{m}_high'):.3f}), {NEUTRAL[m]:g} would be as good"
        for m in found
        if tag(f"{m}_high") < NEUTRAL[m]
    ]


def _key(other: str, measure: str) -> str:
    return mlflow_key(f"listeners.{other}.{measure}")

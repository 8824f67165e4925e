"""From candidate to champion: what came of a comparison, at the registered version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from dimts.evaluation.compare import Difference
from dimts.tracking.registry import CHAMPION, Registry, Version

OUTCOME = "promotion.outcome"
PENDING = "to be promoted; give dimts promote again"


def save_promotion(
    registry: Registry,
    candidate: Version,
    champion: Version | None,
    metrics: Mapping[str, float],
    utterances: int,
    difference: tuple[str, Difference] | None,
    against: Sequence[str],
) -> None:
    """Write the comparison to the candidate's version; without objections, move the alias.

    Only a champion is called promoted: a process that was killed leaves `PENDING`.

    Args:
        registry: that both versions are in.
        metrics, utterances: of the candidate, and on how many they were measured.
        difference: name of the metric that decides, and candidate minus champion.
        against: why the candidate is not promoted; empty if it is.
    """
    now, kept = datetime.now(UTC).isoformat(timespec="seconds"), dict(metrics)
    if difference:
        name, interval = difference
        ends = {"": interval.mean, "_low": interval.low, "_high": interval.high}
        kept |= {f"{name}_difference{end}": value for end, value in ends.items()}
    tags = {
        "at": now,
        "outcome": "; ".join(against) or PENDING,
        "compared_with": champion.number if champion else "none",
        "utterances": str(utterances),
        **{key: f"{value:.4g}" for key, value in kept.items()},
    }
    registry.set_tags(candidate, {f"promotion.{key}": value for key, value in tags.items()})
    if against:
        return
    registry.set_alias(CHAMPION, candidate)
    finish_promotion(registry, registry.version(candidate.number))


def finish_promotion(registry: Registry, champion: Version) -> None:
    """Say of a champion whose outcome is `PENDING` that it was promoted, and of the version that it
    was compared with, by which one that was followed; nothing of others."""
    tags = champion.tags
    if tags.get(OUTCOME) != PENDING:
        return
    if (before := tags["promotion.compared_with"]) != "none":
        followed = {"at": tags["promotion.at"], "by": champion.number}
        followed = {f"promotion.followed_{key}": value for key, value in followed.items()}
        registry.set_tags(registry.version(before), followed)
    registry.set_tags(champion, {OUTCOME: "promoted"})

"""From candidate to champion: what came of a comparison, at the registered version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from dimts.evaluation.compare import Difference
from dimts.tracking.registry import CHAMPION, Registry, Version


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
        "outcome": "; ".join(against) or "promoted",
        "compared_with": champion.number if champion else "none",
        "utterances": str(utterances),
        **{key: f"{value:.4g}" for key, value in kept.items()},
    }
    registry.set_tags(candidate, {f"promotion.{key}": value for key, value in tags.items()})
    if against:
        return
    registry.set_alias(CHAMPION, candidate)
    if champion:
        followed = {"promotion.followed_at": now, "promotion.followed_by": candidate.number}
        registry.set_tags(champion, followed)

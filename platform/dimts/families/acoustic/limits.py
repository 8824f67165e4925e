"""What a promoted voice has to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from dimts.families.protocol import Limits


class VoiceLimits(Limits):
    """What a voice has to keep to be promoted; the descriptions are those of the command line."""

    margin: float = Field(0.0, ge=0, description="dB by which it must be better than the champion")
    max_forgetting: float = Field(
        0.5, ge=0, description="dB by which the base's languages may be worse"
    )
    length_tolerance: float = Field(
        0.1, gt=0, description="share by which the total length may differ from the recorded one"
    )


def objections(metrics: Mapping[str, float], limits: VoiceLimits) -> list[str]:
    """Why a candidate is not promoted, one text a condition that failed; empty if it is.

    A metric that is not a number fails its condition.

    Args:
        metrics: of the candidate: ``mcd``, ``length_ratio`` and, where it was measured,
            ``forgetting``.
        limits: to be kept.
    """
    found = []
    if not math.isfinite(metrics["mcd"]):
        found.append(f"its mean MCD is {metrics['mcd']}")
    if not abs(metrics["length_ratio"] - 1) <= limits.length_tolerance:
        found.append(
            f"it speaks {metrics['length_ratio']:.2f} times as long as recorded, "
            f"1 +- {limits.length_tolerance:g} is asked for"
        )
    forgetting = metrics.get("forgetting")
    if forgetting is not None and not forgetting <= limits.max_forgetting:
        found.append(
            f"the base's languages changed by {forgetting:+.3f} dB, "
            f"at most {limits.max_forgetting:+g} is asked for"
        )
    return found

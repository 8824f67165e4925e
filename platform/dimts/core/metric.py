"""What a figure of a model is called, in what unit it is, and which way is better."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A figure of a model: how it is called and which way is better.

    Attributes:
        name: as it is logged, such as ``val/total_loss``.
        label: what a person reads.
        unit: of its values; empty if it has none.
        direction: which values are better.
        when: whether training itself gives it, with each validation, or it takes a measurement.
        short: what it is called where there is little room; on the console those of validation are
            shown that have one.
        digits: after the decimal point, where a person reads it.
        signed: whether a person reads its sign, as of a difference.
        tables: in which it stands: ``held_out`` (by split) and ``promotion``.
    """

    name: str
    label: str
    unit: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    when: Literal["validation", "measured"] = "validation"
    short: str = ""
    digits: int = 3
    signed: bool = False
    tables: tuple[Literal["held_out", "promotion"], ...] = ()

    def better(self, value: float, than: float) -> bool:
        """Whether one value is better than another; nothing is better than an equal one."""
        return value < than if self.direction == "minimize" else value > than

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        """A value as a person reads it."""
        return format(value, f"{'+' if self.signed else ''}.{self.digits}f")


def of_speaker(speaker: str, metric: str) -> str:
    """Name of what one of several speakers has of a metric, ``speaker/NAME/mcd``.

    MLflow takes letters, digits and few other characters in the name of a metric.
    """
    name = re.sub(r"[^\w.\- ]", "-", speaker)
    return f"speaker/{name}/{metric}"

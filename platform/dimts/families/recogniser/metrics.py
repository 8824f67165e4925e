"""The metrics of the recogniser family, the only list of them."""

from __future__ import annotations

from dimts.core.metric import Metric

SELECTION = Metric("val/loss", "validation, nats a letter", short="loss", digits=4)
MEASURED = Metric("val/misread", "validation, letters misread, %", "%", when="measured")
MISREAD = Metric(
    "misread", "letters misread, %", "%", when="measured", digits=1,
    tables=("held_out", "promotion"),
)  # fmt: skip

METRICS = (
    SELECTION,
    MEASURED,
    MISREAD,
    Metric("utterances", "utterances", digits=0, tables=("held_out",)),
)

"""The metrics of the chatterbox family, the only list of them."""

from __future__ import annotations

from dimts.core.metric import Metric

SELECTION = Metric(
    "val/speech_loss", "validation, cross-entropy of the speech", "nats a token", short="speech"
)
MEASURED = Metric(
    "val/utterance_loss", "validation, cross-entropy of the speech, mean of the utterances",
    "nats a token", when="measured",
)  # fmt: skip
ENDS_ON_TIME = Metric(
    "val/ends_on_time", "validation, spoken as long as recorded, +- 20 %",
    direction="maximize", when="measured", digits=2,
)  # fmt: skip
DECIDES = Metric(
    "utterance_loss", "cross-entropy of the speech", "nats a token", when="measured",
    short="speech", tables=("held_out", "promotion"),
)  # fmt: skip
TEXT_GAP = Metric(
    "text_gap", "what a wrong text costs, nats a token", direction="maximize", signed=True,
    tables=("held_out", "promotion"),
)  # fmt: skip
FORGETTING = Metric(
    "forgetting/speech_loss_change", "forgetting, change of the cross-entropy", "nats a token",
    when="measured", signed=True,
)  # fmt: skip
FORGOTTEN = Metric(
    "forgetting", "languages of the base, change", "nats a token", signed=True,
    tables=("promotion",),
)  # fmt: skip

METRICS = (
    SELECTION,
    Metric("val/text_loss", "validation, cross-entropy of the text", "nats a token", short="text"),
    Metric("val/eos_recall", "validation, ends foretold", direction="maximize", short="ends"),
    Metric(
        "val/text_gap", "validation, what a wrong text costs", "nats a token",
        direction="maximize", short="wrong text", signed=True,
    ),
    MEASURED,
    ENDS_ON_TIME,
    DECIDES,
    Metric("text_loss", "cross-entropy of the text", "nats a token", tables=("held_out",)),
    Metric(
        "eos_recall", "ends foretold", direction="maximize", digits=2,
        tables=("held_out", "promotion"),
    ),
    TEXT_GAP,
    Metric(
        "ends_on_time", "spoken as long as recorded, +- 20 %", direction="maximize", digits=2,
        tables=("held_out", "promotion"),
    ),
    Metric("utterances", "utterances", digits=0, tables=("held_out",)),
    FORGETTING,
    FORGOTTEN,
)  # fmt: skip
"""No loss ranks what is heard; `text_gap` near zero says that the model ignores its text."""

"""The metrics of the acoustic family, the only list of them."""

from __future__ import annotations

from collections.abc import Iterator

from dimts.core.metric import Metric
from dimts.evaluation.judges.metrics import JUDGED, STATISTICS

SELECTION = Metric("val/total_loss", "validation loss", short="loss", digits=4)
SPOKEN = Metric("val/mcd", "validation MCD", "dB", when="measured")
FORGETTING = Metric("forgetting/mcd_change", "forgetting, change of MCD", "dB", when="measured")
MCD = Metric(
    "mcd", "mel-cepstral distortion, dB", "dB", when="measured", short="MCD",
    tables=("held_out", "promotion"),
)  # fmt: skip


def _heard() -> Iterator[Metric]:
    """Of judges: the voice, the recordings and what Griffin-Lim makes of them; objectives."""
    for metric in (*JUDGED, *STATISTICS):
        yield metric
        for whose, label in (
            ("recorded", "the recordings"),
            ("copied", "their Griffin-Lim copies"),
        ):
            yield metric._replace(
                name=f"{whose}_{metric.name}", label=f"  {label}", tables=("held_out",)
            )
    for metric in JUDGED:
        yield metric._replace(
            name=f"val/{metric.name}", label=f"validation, {metric.label}", tables=(), short=""
        )


METRICS = (
    SELECTION,
    Metric("val/mel_mse", "validation, squared error of the mel", short="mel"),
    Metric("val/duration_loss", "validation, duration loss", short="duration"),
    SPOKEN,
    FORGETTING,
    MCD,
    Metric("untrained_mcd", "  the same, untrained model", tables=("held_out",)),
    Metric("mean_mel_mcd", "  the same, mean mel", tables=("held_out",)),
    Metric("mcd_of_untrained", "distortion / untrained", tables=("held_out",)),
    Metric("length_ratio", "total length / recorded", tables=("held_out", "promotion")),
    Metric("duration_error", "duration error, frames a token", tables=("held_out", "promotion")),
    Metric("aligned_mel_mse", "log-mel MSE, aligned", tables=("held_out",)),
    Metric("utterances", "utterances", digits=0, tables=("held_out",)),
    Metric("base_mcd", "languages of the base, dB", tables=("promotion",)),
    Metric("forgetting", "  change against the base, dB", signed=True, tables=("promotion",)),
    *_heard(),
)

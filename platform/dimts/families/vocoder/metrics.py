"""The metrics of the vocoder family, the only list of them."""

from __future__ import annotations

from dimts.core.metric import Metric

SELECTION = Metric("val/stft", "validation, distance of spectra", short="stft", digits=4)
MEASURED = Metric("val/stft_distance", "validation, distance of spectra, whole", when="measured")
DECIDES = Metric(
    "stft_distance", "distance of spectra", when="measured", short="stft",
    tables=("held_out", "promotion"),
)  # fmt: skip

METRICS = (
    SELECTION,
    Metric("val/mel", "validation, error of the log mel", "nepers", short="mel"),
    Metric("val/pitch_wrong", "validation, frames with a wrong F0", short="wrong F0"),
    MEASURED,
    DECIDES,
    Metric("griffin_lim_stft_distance", "  the same, Griffin-Lim", tables=("held_out",)),
    Metric("mel_error", "error of the log mel, nepers", tables=("held_out", "promotion")),
    Metric("f0_error", "error of F0, percent", digits=2, tables=("held_out", "promotion")),
    Metric("f0_wrong", "frames with a wrong F0, percent", digits=2, tables=("held_out",)),
    Metric("voicing_wrong", "wrongly voiced or not, percent", digits=2, tables=("held_out",)),
    Metric("utterances", "utterances", digits=0, tables=("held_out",)),
)
"""No distance of spectra ranks what is heard: train with the discriminators, and listen."""

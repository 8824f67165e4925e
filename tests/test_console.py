"""What a person sees of a run while it trains."""

from __future__ import annotations

import pytest

from dimts.core.metric import Metric
from dimts.families.acoustic.metrics import METRICS
from dimts.launch.console import line

SPEED = {"train/frames_per_second": 5123.4, "train/frames": 9.0}
LOSSES = {"total_loss": 0.98765, "mel_mse": 0.5, "duration_loss": 0.25, "prior_loss": 1.0}
SHARES = (
    Metric("val/share", "samples foretold", direction="maximize", short="share"),
    Metric("val/spoken", "the same", when="measured", short="spoken"),
)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (
            {f"train/{name}": value for name, value in LOSSES.items()} | SPEED,
            "step    250   loss 0.9877   mel 0.500   duration 0.250   5,123 frames/s",
        ),
        (
            {f"val/{name}": value for name, value in LOSSES.items()},
            "step    250   validation 0.9877   mel 0.500   duration 0.250",
        ),
        ({"parameters/trained": 7.0}, None),
    ],
)
def test_metrics_of_a_step_are_one_line(values: dict[str, float], shown: str | None) -> None:
    assert line({"step": 250, "values": values}, METRICS) == shown


def test_line_is_made_of_the_metrics_of_the_family() -> None:
    values = {"train/share": 0.5, "train/samples_per_second": 10.0, "train/spoken": 1.0}
    assert line({"step": 3, "values": values}, SHARES) == "step      3   share 0.500   10 samples/s"
    values = {"val/share": 0.5, "val/spoken": 1.0}
    assert line({"step": 3, "values": values}, SHARES) == "step      3   validation 0.500"


def test_text_is_printed_as_it_is() -> None:
    assert line({"text": "going on"}, METRICS) == "going on"
    assert line({"start": {"host": "here"}}, METRICS) is None

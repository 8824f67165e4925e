"""What benchmarks/gpu.py measures, and what it says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from benchmarks.synthetic import padding_share
from dimts.audio.mel import MelConfig
from dimts.families.acoustic.dataset import Corpus
from dimts.families.acoustic.model.config import ModelConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.sampler import BucketSampler


class Case(NamedTuple):
    """One run of the loop: what is measured at once."""

    size: str
    batch_size: int
    amp: str
    durations: str


class Setup(NamedTuple):
    """What all runs share."""

    device: torch.device
    tokenizer: Tokenizer
    mel: MelConfig
    models: dict[str, ModelConfig]
    corpora: dict[int, Corpus]
    steps: int
    warmup: int
    windows: int


@dataclass(frozen=True)
class Row:
    """Figures of a `Case`; None where they cannot be had.

    Attributes:
        frames_per_second: real frames; slowest, fastest: of the counted windows.
        search_ms: from the states' means to the durations, a step, on the device's clock.
        peak_gib: memory allocated on the device at most.
    """

    case: Case
    frames_per_second: float
    slowest: float
    fastest: float
    step_ms: float
    data_wait_share: float
    search_ms: float | None
    peak_gib: float | None
    flops_a_frame: float
    mfu: float | None


def markdown(
    rows: list[Row], failed: dict[str, str], setup: Setup, facts: dict[str, object]
) -> str:
    lines = [
        "| size | batch | AMP | durations | frames/s | slowest - fastest window | step, ms "
        "| waiting for data | search, ms | search, share | peak memory, GiB | MFU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            *map(str, row.case),
            f"{row.frames_per_second:,.0f}",
            f"{row.slowest:,.0f} - {row.fastest:,.0f}",
            f"{row.step_ms:.1f}",
            f"{row.data_wait_share:.1%}",
            "" if row.search_ms is None else f"{row.search_ms:.1f}",
            "" if row.search_ms is None else f"{row.search_ms / row.step_ms:.1%}",
            "" if row.peak_gib is None else f"{row.peak_gib:.1f}",
            "" if row.mfu is None else f"{row.mfu:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {case}: {reason}" for case, reason in failed.items())]
    if rows and rows[0].mfu is None:
        lines.append("- MFU left out: the peak of this device is not known to benchmarks.flops")
    flops = {row.case.size: row.flops_a_frame for row in rows}
    n_frames = next(iter(setup.corpora.values())).utterances.n_frames
    padding = {
        size: padding_share(n_frames, BucketSampler(n_frames, size, seed=0).batches(0))
        for size in sorted({row.case.batch_size for row in rows})
    }
    facts = {
        "MFLOPs a frame, forward and backward": ", ".join(
            f"{size} {value / 1e6:.1f}" for size, value in flops.items()
        ),
        "padding, share of frames": ", ".join(f"batch {b} {p:.1%}" for b, p in padding.items()),
        "steps": f"{setup.windows} windows of {setup.steps}, {setup.warmup} more before them "
        "not counted",
        **facts,
    }
    return "\n".join([*lines, *(f"- {key}: {value}" for key, value in facts.items())])

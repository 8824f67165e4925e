"""What the loop is given, what it tells, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from dimts.families.acoustic.model.t3 import T3
from dimts.training.config import TrainingConfig
from dimts.training.sampler import Corpus, Position


class Callbacks(Protocol):
    """What the loop tells its surroundings, and what it asks of them."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Metrics of a step; rank 0 only."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """After each validation or checkpoint, equally often on every rank."""

    def sample(self, model: T3, step: int) -> None:
        """Speak and plot with the weights that would ship; rank 0 only."""

    def tell(self, text: str) -> None:
        """Something a person should know, in one line; rank 0 only."""

    def should_stop(self) -> bool:
        """Whether to end after this step with a checkpoint; asked on rank 0 only."""

    def should_save(self) -> bool:
        """Whether the end may come unasked for, so that a checkpoint is worth its time; asked on
        every rank after the same steps, and answered alike."""


class Silence:
    """Callbacks that tell nobody anything and never ask to stop; see `Callbacks`."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None: ...

    def sample(self, model: T3, step: int) -> None: ...

    def tell(self, text: str) -> None: ...

    def should_stop(self) -> bool:
        return False

    def should_save(self) -> bool:
        return False


class Job(NamedTuple):
    """What is trained on what.

    Attributes:
        config: of the loop.
        model: on its device.
        train, val: utterances with token ids; `train` with durations where
            `config.aligner.fixed_share` is above 0.
        run_dir: where checkpoints go.
        write_bundle: (folder, weights, facts) -> None, for `dimts.bundles.bundle.write_bundle`.
        rehearsal: utterances of the base's languages, aligned by the model itself.
        rehearsal_share: share of the batches that are of those.
        max_threads: of torch, of which the fastest number is found out before the first step;
            0 leaves torch as it is.
    """

    config: TrainingConfig
    model: T3
    train: Corpus
    val: Corpus
    run_dir: Path
    write_bundle: Callable[[Path, dict[str, Tensor], dict[str, Any]], None]
    rehearsal: Corpus | None = None
    rehearsal_share: float = 0.0
    max_threads: int = 0


class Result(NamedTuple):
    """How a run ended.

    Attributes:
        status: finished, stopped (asked to), or early_stopped (no better loss).
        step: optimizer steps done in all.
        best: metrics of the best validation.
        checkpoint: the last one.
        seconds: spent in each part of the loop since it started or resumed.
        skipped: steps left out for a loss that was not finite.
        frames: mel frames trained on in all, without padding, over all workers.
    """

    status: Literal["finished", "stopped", "early_stopped"]
    step: int
    best: dict[str, float]
    checkpoint: Path | None
    seconds: dict[str, float]
    skipped: int
    frames: int


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        step: optimizer steps done.
        position: of the next batch.
        best, latest: metrics of the best and the latest validation.
        best_step: of the best checkpoint; -1 if there is none.
        validated: step of the latest validation.
        since_best: validations since the best.
        skipped: steps left out for a loss that was not finite.
        bad_in_a_row: those of them that came last.
        frames: mel frames trained on.
        parts: micro-batches that a worker's share of a batch is cut into.
        max_steps: of the schedule that the steps so far followed; 0 before the first.
        fixed_steps: steps trained on the durations of the flat-start aligner.
        extended_at: step from which the run was made longer, the last time; -1 if it never was.
        share_before: share of the learning rate that the shorter schedule had there.
    """

    step: int = 0
    position: Position = field(default_factory=lambda: Position(0, 0))
    best: dict[str, float] | None = None
    latest: dict[str, float] | None = None
    best_step: int = -1
    validated: int = -1
    since_best: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    frames: int = 0
    parts: int = 1
    max_steps: int = 0
    fixed_steps: int = 0
    extended_at: int = -1
    share_before: float = 0.0

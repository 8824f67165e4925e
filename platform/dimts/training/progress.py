"""Where a run stands, and how it ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from dimts.training.sampler import Position
from dimts.training.task import Moment


class Seconds(defaultdict[str, float]):
    """Seconds spent in each part of the loop."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what is inside."""
        start = time.perf_counter()
        yield
        self[part] += time.perf_counter() - start


class Result(NamedTuple):
    """How a run ended; see `Progress`.

    Attributes:
        status: finished, stopped (asked to), or early_stopped (no better loss).
        checkpoint: the last one.
        seconds: spent in each part of the loop since it started or resumed.
    """

    status: Literal["finished", "stopped", "early_stopped"]
    step: int
    best: dict[str, float]
    checkpoint: Path | None
    seconds: dict[str, float]
    skipped: int
    units: int


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
        units: frames, tokens or samples trained on, without padding, over all workers.
        n_micro_batches: that a worker's share of a batch is cut into.
        max_steps: of the schedule that the steps so far followed; 0 before the first.
        planned_steps: those of the run when it began.
        extended_at: step from which the run was made longer, the last time; -1 if it never was.
        shares_before: of the learning rate that the shorter schedule had there, by objective.
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
    units: int = 0
    n_micro_batches: int = 1
    max_steps: int = 0
    planned_steps: int = 0
    extended_at: int = -1
    shares_before: dict[str, float] = field(default_factory=dict)

    @property
    def moment(self) -> Moment:
        """Of the next step."""
        return Moment(self.step, self.planned_steps)

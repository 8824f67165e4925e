"""When a trial is stopped early: asynchronous successive halving, the variant that stops.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020. A function of the
values in the study's storage: Ray's scheduler keeps its rungs in memory, and would forget them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from dimts.core.config import Config


class EarlyStopping(Config):
    """Asynchronous successive halving, by validations.

    Attributes:
        first: validation at which trials are compared first.
        factor: of the trials compared, one in `factor` goes on; the next comparison comes after
            `factor` times as many validations. (What 2 and 4 find: docs/tuning.md.)
        min_trials: comparisons of fewer trials stop none.
    """

    first: int = Field(1, ge=1)
    factor: int = Field(4, ge=2)
    min_trials: int = Field(4, ge=2)

    def rungs(self, validations: int) -> list[int]:
        """The validations at which trials are compared; the last one of all ends them anyway."""
        rungs, rung = [], self.first
        while rung < validations:
            rungs.append(rung)
            rung *= self.factor
        return rungs

    def stops(self, value: float, others: Sequence[float]) -> bool:
        """Whether a trial with `value` ends here.

        Args:
            value: its best validation loss so far; less is better.
            others: those of the other trials when they were here.
        """
        if not math.isfinite(value):
            return True
        n = len(others) + 1
        better = sum(other < value for other in filter(math.isfinite, others))
        return n >= self.min_trials and better >= max(1, n // self.factor)

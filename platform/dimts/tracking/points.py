"""Which metric points a store has, so that each is sent once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dimts.tracking.spool import Record, Spool


class Point(NamedTuple):
    """A value of a metric, at the time at which it was measured."""

    key: str
    value: float
    time_ms: int
    step: int


class Points:
    """The points of one run.

    A run that is started again computes steps anew that were sent already, so the store is asked
    which. Of a run that was just made, what is above the highest step sent of a metric is new. What
    is not may still be new where the spool was full and dropped records; the store is asked there.

    Args:
        spool: knows what was dropped.
        history: asks the store which steps of a metric it has.
        in_doubt: the run is not new, so the store is asked of each metric.
    """

    def __init__(
        self, spool: Spool, history: Callable[[str], set[int]], in_doubt: bool = False
    ) -> None:
        self._spool = spool
        self._history = history
        self._in_doubt = in_doubt
        self._known: dict[str, set[int]] = {}
        self._highest: dict[str, int] = {}

    def new(self, batch: Sequence[Record]) -> list[Point]:
        """Points of these records that the store does not have."""
        points: dict[tuple[str, int], Point] = {}
        for record in batch:
            step, time_ms = record.fields["step"], record.fields["time_ms"]
            for key, value in record.fields["values"].items():
                if (key, step) not in points and self._is_new(key, step):
                    points[key, step] = Point(key, value, time_ms, step)
        return list(points.values())

    def were_sent(self, points: Sequence[Point]) -> None:
        """The store has taken them."""
        for key, _, _, step in points:
            self._highest[key] = max(step, self._highest.get(key, -1))
            if key in self._known:
                self._known[key].add(step)

    def _is_new(self, key: str, step: int) -> bool:
        if not self._in_doubt:
            if step > self._highest.get(key, -1):
                return True
            if not self._spool.dropped.may_hold(step):
                return False
        if key not in self._known:
            self._known[key] = self._history(key)
        return step not in self._known[key]

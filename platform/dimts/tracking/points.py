"""Which metric points a store has, so that each is sent once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dimts.tracking.event_log import Entry
from dimts.tracking.mlflow_client import mlflow_key, time_ms


class Point(NamedTuple):
    """A value of a metric, at the time at which it was measured."""

    key: str
    value: float
    time_ms: int
    step: int


class Points:
    """The points of one run.

    A run that is started again computes steps anew that were sent already, so the store is asked
    which. Of a run that was just made, what is above the highest step sent of a metric is new.

    Args:
        history: asks the store which steps of a metric it has.
        in_doubt: the run is not new, so the store is asked of each metric.
    """

    def __init__(self, history: Callable[[str], set[int]], in_doubt: bool) -> None:
        self._history = history
        self._in_doubt = in_doubt
        self._known: dict[str, set[int]] = {}
        self._highest: dict[str, int] = {}

    def new(self, batch: Sequence[Entry]) -> list[Point]:
        """Points of these events that the store does not have."""
        points: dict[tuple[str, int], Point] = {}
        for _, _, event in batch:
            step = int(event["step"])
            for name, value in event["values"].items():
                key = mlflow_key(name)
                if (key, step) not in points and self._is_new(key, step):
                    points[key, step] = Point(key, float(value), time_ms(event), step)
        return list(points.values())

    def were_sent(self, points: Sequence[Point]) -> None:
        """The store has taken them."""
        for key, _, _, step in points:
            self._highest[key] = max(step, self._highest.get(key, -1))
            if key in self._known:
                self._known[key].add(step)

    def _is_new(self, key: str, step: int) -> bool:
        if not self._in_doubt and step > self._highest.get(key, -1):
            return True
        if key not in self._known:
            self._known[key] = self._history(key)
        return step not in self._known[key]

"""How many records were dropped, as there was no place for them to wait."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dimts.tracking.files import write_json


@dataclass
class Dropped:
    """What was not recorded, as the spool or its disk was full.

    Attributes:
        metrics: how many records of metrics.
        others: how many files and other records.
        first: lowest step of those metrics; None without any.
        last: highest step of those metrics.
    """

    metrics: int = 0
    others: int = 0
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        steps = "" if self.first is None else f" (steps {self.first} to {self.last})"
        return f"{self.metrics} of metrics{steps}, {self.others} others"

    @property
    def n(self) -> int:
        """How many records in all."""
        return self.metrics + self.others

    def may_hold(self, step: int) -> bool:
        """False when metrics of this step were certainly not dropped."""
        return self.first is not None and self.last is not None and self.first <= step <= self.last

    def add(self, step: int | None) -> None:
        """Count a record: one of metrics if it has a step."""
        if step is None:
            self.others += 1
            return
        self.metrics += 1
        self.first = step if self.first is None else min(self.first, step)
        self.last = step if self.last is None else max(self.last, step)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `store` wrote; nothing dropped when there is no such file."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        return cls()

    def store(self, path: Path) -> None:
        """Write it to a file."""
        write_json(path, vars(self))

"""What a reader raises for a row that it cannot use."""

from __future__ import annotations

from data_prep.utterance import Reason


class RowError(Exception):
    """This row cannot be used; the others can."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

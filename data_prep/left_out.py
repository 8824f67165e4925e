"""Rows of a corpus that a person has marked as bad, in a file beside them."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.storage.files import read_bounded
from dimts.storage.paths import AnyPath

LEFT_OUT = "left_out.ids"
"""In the corpus folder: the id of an utterance a line."""
MAX_BYTES = 64 * 2**20


def read_left_out(corpus: AnyPath) -> list[str]:
    """Ids that are left out of a corpus, in the order of the file; none if there is no file.

    Raises:
        UserError: it cannot be read.
    """
    file = corpus / LEFT_OUT
    try:
        return read_bounded(file, MAX_BYTES).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from error


def leave_out(corpus: AnyPath, rows: Sequence[Utterance | Rejected]) -> list[Utterance | Rejected]:
    """The rows of a corpus, those that the file names as refused ones."""
    ids = set(read_left_out(corpus))
    return [
        row.rejected(Reason.LEFT_OUT, f"stands in {LEFT_OUT}")
        if isinstance(row, Utterance) and row.id in ids
        else row
        for row in rows
    ]

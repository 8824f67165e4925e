"""Lines of a table -> cells: delimiters, quotes, and what is wrong with a line."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from data_prep.readers.corpus_folder import MAX_LINE_BYTES
from data_prep.readers.refusal import RowError
from data_prep.utterance import Reason

MAX_LINES_OF_A_ROW = 20
"""Of quoted cells with line ends in them: a quote that is never closed costs one row."""


class Format(NamedTuple):
    """How cells are separated."""

    delimiter: str
    quoted: bool  # as CSV has it: "a, b" is one cell, "" a quote in it
    encoding: str = "utf-8"

    @property
    def shown(self) -> str:
        """The delimiter as a person writes it."""
        return "tab" if self.delimiter == "\t" else self.delimiter


class Line(NamedTuple):
    """A row of a table."""

    number: int  # of its first line, from 1
    cells: list[str] | RowError
    raw: str


def split_lines(lines: Iterable[bytes], form: Format) -> Iterator[Line]:
    """Rows of a table; blank lines are none. Cells are stripped."""
    source = enumerate(lines, start=1)
    waiting: deque[tuple[int, bytes]] = deque()
    while True:
        number, line = waiting.popleft() if waiting else next(source, (0, b""))
        if not number:
            return
        if not line.strip():
            continue
        raw = line.decode(form.encoding, "replace").rstrip("\r\n")
        try:
            text = decode(line, form.encoding)
            if not form.quoted or '"' not in text:
                cells = text.split(form.delimiter)
            else:
                cells = _quoted(text, form, source, waiting)
            yield Line(number, [cell.strip() for cell in cells], raw)
        except RowError as error:
            yield Line(number, error, raw)


def decode(line: bytes, encoding: str) -> str:
    """A line as text, without its end.

    Raises:
        RowError: it is too long, or not in this encoding.
    """
    if len(line.rstrip(b"\n")) > MAX_LINE_BYTES:
        raise RowError(Reason.UNDECODABLE_LINE, f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return line.decode(encoding).rstrip("\n")
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not {encoding}"
        raise RowError(Reason.UNDECODABLE_LINE, detail.replace("not utf-8", "not UTF-8")) from None


def _quoted(
    text: str,
    form: Format,
    source: Iterator[tuple[int, bytes]],
    waiting: deque[tuple[int, bytes]],
) -> list[str]:
    """Cells of a row that has quotes; takes the lines that it goes on in."""
    taken: list[tuple[int, bytes]] = []
    whole = text
    while True:
        try:
            [cells] = csv.reader([whole], delimiter=form.delimiter, strict=True)
            return cells
        except csv.Error as error:
            problem = str(error)
        more = waiting.popleft() if waiting else next(source, (0, b""))
        if more[0]:
            taken.append(more)
        open_quote = "end of data" in problem or "unexpected end" in problem
        if not (open_quote and more[0] and len(taken) < MAX_LINES_OF_A_ROW):
            waiting.extendleft(reversed(taken))
            detail = f"quotes: {problem}; corpus.quoted: false takes them as they are"
            raise RowError(Reason.UNDECODABLE_LINE, detail)
        try:
            whole += "\n" + decode(more[1], form.encoding)
        except RowError:
            waiting.extendleft(reversed(taken))
            raise


def likely_delimiter(lines: Sequence[str]) -> str:
    """The sign that separates columns in most lines; "" if there is none."""
    for delimiter in ("|", "\t"):
        if 2 * sum(delimiter in line for line in lines) > len(lines):
            return delimiter
    for delimiter in (",", ";"):
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        except csv.Error:
            continue
        if widths and (most := widths.most_common(1)[0])[0] > 1 and 2 * most[1] > len(lines):
            return delimiter
    return ""

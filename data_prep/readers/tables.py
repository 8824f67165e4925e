"""Rows of tables with delimiters, whichever layout names their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from data_prep.readers.cells import Format, Line, likely_delimiter, split_lines
from data_prep.readers.columns import Roles, guessed_roles, header_roles, is_header
from data_prep.readers.corpus_folder import SAMPLED_ROWS, CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.readers.rows import Cells, RowMaker, Rows, seconds
from data_prep.utterance import Reason
from dimts.core.errors import UserError

Finish = Callable[[Cells, dict[str, str]], Cells]
"""What a layout makes of cells and of all columns that have a name; may raise `RowError`."""


def read_tables(
    folder: CorpusFolder,
    maker: RowMaker,
    tables: Sequence[str],
    form: Format | None = None,
    roles: Roles | None = None,
    finish: Finish | None = None,
    several: bool = False,
) -> Rows:
    """The rows of several tables in their order.

    Args:
        form: of a layout that has only one; else by settings and by what stands in the table.
        roles: likewise.
        finish: what the layout knows beyond columns.
        several: whether there are others beside them.
    """
    for name in tables:
        maker.table(name, several or len(tables) > 1)
        own = form or format_of(folder, name)
        lines: Iterator[Line] = split_lines(folder.lines(name), own)
        known = roles or find_roles(folder, name, own, maker)
        if known.names:
            next(lines, None)  # the header
        for line in lines:
            try:
                cells, columns = _cells(line, known, own)
                row = finish(cells, columns) if finish else cells
            except RowError as error:
                yield maker.row(line.number, error, _shown(line, known, own, maker))
            else:
                yield maker.row(line.number, row)


def format_of(folder: CorpusFolder, name: str) -> Format:
    """How the cells of a table are separated.

    Raises:
        UserError: nothing separates them.
    """
    config = folder.config
    head = folder.head(name)
    delimiter = config.delimiter or likely_delimiter(head) or ("|" if not head else "")
    if not delimiter:
        raise UserError(
            f"{config.path / name}: no |, tab, comma or semicolon separates columns; "
            "set corpus.delimiter, or corpus.reader to another layout"
        )
    quoted = config.quoted
    if quoted is None:
        first = [cell.strip() for cell in head[0].split(delimiter)] if head else []
        named = is_header(first, lambda _: False)
        quoted = delimiter in ",;" or (delimiter == "|" and named)
    return Format(delimiter, quoted, config.encoding)


def sample_of(folder: CorpusFolder, name: str, form: Format) -> list[list[str]]:
    """Cells of the first rows that can be split."""
    rows = []
    for line in split_lines(folder.lines(name), form):
        if not isinstance(line.cells, RowError):
            rows.append(line.cells)
        if len(rows) == SAMPLED_ROWS:
            break
    return rows


def find_roles(folder: CorpusFolder, name: str, form: Format, maker: RowMaker) -> Roles:
    """What the columns of a table hold, by settings, by its header or by what stands in them."""
    rows = sample_of(folder, name, form)
    beside = name.rpartition("/")[0]

    def exists(value: str) -> bool:
        return maker.audio.exists(value, beside)

    header = folder.config.header
    if rows and (header or (header is None and is_header(rows[0], exists))):
        return header_roles(folder, name, rows[0])
    return guessed_roles(folder, name, rows, exists)


def _shown(line: Line, roles: Roles, form: Format, maker: RowMaker) -> str:
    """What stands for the id of a row that cannot be used."""
    cells = line.raw.split(form.delimiter) if isinstance(line.cells, RowError) else line.cells
    name = cells[roles.audio if roles.audio < len(cells) else 0].strip()
    return maker.audio.id_of(name) if name else ""


def _cells(line: Line, roles: Roles, form: Format) -> tuple[Cells, dict[str, str]]:
    """Cells by their roles, and all of them by the names of a header."""
    if isinstance(line.cells, RowError):
        raise line.cells
    cells = line.cells
    least, most = roles.n_columns
    if len(cells) > most and roles.rest_is_text:
        cells = [*cells[: most - 1], f"{form.delimiter}".join(cells[most - 1 :])]
    if not least <= len(cells) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        detail = f"{len(cells)} columns, not {wanted} separated by {form.shown}"
        raise RowError(Reason.WRONG_COLUMN_COUNT, detail)

    def cell(column: int | None) -> str:
        return "" if column is None else cells[column]

    texts = (cells[n] for n in roles.text if n < len(cells))
    columns = dict(zip(roles.names, cells, strict=False))
    if not roles.names:
        columns = {str(n): value for n, value in enumerate(cells, start=1)}
    return (
        Cells(
            cell(roles.audio),
            next((text for text in texts if text), ""),
            speaker=cell(roles.speaker),
            language=cell(roles.language),
            start=seconds(cell(roles.start)) if roles.start is not None else None,
            end=seconds(cell(roles.end)),
            others=columns,
        ),
        columns,
    )

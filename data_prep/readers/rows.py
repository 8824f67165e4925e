"""What every layout has in common: a row's cells become an utterance, or the reason why not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.readers.audio_names import AUDIO_FOLDERS, AudioNames
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.readers.refusal import RowError
from data_prep.utterance import Reason, Rejected, Utterance
from dimts.core.errors import UserError
from dimts.core.untrusted import DRIVES_A_TERMINAL

MAX_NOTE = 1000
"""Characters kept of what a refused row says."""
MAX_NAME = 200
"""Characters of a speaker's name."""

Rows = Iterator[Utterance | Rejected]


@dataclass(frozen=True)
class Cells:
    """What a row says, as it is written.

    Attributes:
        audio: name of the recording.
        member: row in it, of a Parquet file that holds recordings.
        id: where the layout gives utterances one; else that of the recording.
        start, end: seconds into the recording; None: the whole of it.
        split_id: what decides the split, where several utterances must not part.
        others: all columns that have a name, for `corpus.only`.
    """

    audio: str
    text: str
    speaker: str = ""
    language: str = ""
    id: str = ""
    start: float | None = None
    end: float | None = None
    split_id: str = ""
    member: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


class RowMaker:
    """Makes utterances of the rows of a corpus; of rows with the same id, the first stays."""

    def __init__(
        self, folder: CorpusFolder, language: str, folders: tuple[str, ...] = AUDIO_FOLDERS
    ) -> None:
        self.folder = folder
        self.audio = AudioNames(folder, folders)
        self._languages = (language, *folder.config.languages)
        self._seen: dict[str, str] = {}
        self._columns: set[str] = set()  # that have been met: rows of JSON need not have all
        self._several = False
        self._table = ""

    def table(self, name: str, of_several: bool) -> None:
        """Begin with a table; details name it if it is one of several."""
        self._table, self._several = name, of_several

    def lines(
        self, table: str, of_several: bool, parse: Callable[[bytes], Cells],
        first_is_id: bool = True,
    ) -> Rows:  # fmt: skip
        """The rows of a table that has one a line; of a line that cannot be parsed the first word
        stands for the id, where a line begins with it."""
        self.table(table, of_several)
        encoding = self.folder.config.encoding
        for number, line in enumerate(self.folder.lines(table), start=1):
            if not line.decode(encoding, "replace").strip():
                continue
            words = line[:200].split(None, 1) if first_is_id else []
            shown = words[0].decode("utf-8", "replace") if words else ""
            try:
                cells: Cells | RowError = parse(line)
            except RowError as error:
                cells = error
            yield self.row(number, cells, shown)

    def row(self, number: int, cells: Cells | RowError, shown: str = "") -> Utterance | Rejected:
        """An utterance, or why there is none.

        Args:
            number: of the line in its table, from 1.
            cells: what it says, or what is wrong with it.
            shown: stands for the id where that cannot be read.
        """
        named = ""
        try:
            if isinstance(cells, RowError):
                raise cells
            named = cells.id or (self._named_id(cells) if cells.audio else "")
            return self._utterance(number, cells)
        except RowError as error:
            detail = f"{self._table}: {error.detail}" if self._several else error.detail
            readable = (named or shown).strip()
            return Rejected(number, readable[:MAX_NOTE], error.reason, detail[:MAX_NOTE])

    def _named_id(self, cells: Cells) -> str:
        return f"{self.audio.id_of(cells.audio)}{_segment_suffix(cells.start)}"

    def _utterance(self, number: int, cells: Cells) -> Utterance:
        if not cells.audio:
            raise RowError(Reason.EMPTY_ID, "no recording is named")
        for what, name in (
            ("file", cells.audio),
            ("id", cells.id),
            ("speaker", cells.speaker),
        ):
            if control := DRIVES_A_TERMINAL.search(name):
                detail = f"U+{ord(control[0]):04X} in the name of the {what}"
                raise RowError(Reason.UNPRINTABLE_ID, detail)
        utterance_id = cells.id or self._named_id(cells)
        audio = None
        if not cells.id and utterance_id.startswith("/"):  # of another machine
            audio = self._find(cells)
            utterance_id = self.audio.id_of(audio.as_posix()) + _segment_suffix(cells.start)
        if utterance_id in self._seen:
            detail = f"stands in {self._seen[utterance_id]} already"
            raise RowError(Reason.DUPLICATE_ID, detail)
        language = self._language_of(cells)
        audio = audio or self._find(cells)
        if not cells.text:
            raise RowError(Reason.EMPTY_TEXT, "the text is empty")
        if len(cells.speaker) > MAX_NAME:
            detail = f"the speaker's name has {len(cells.speaker)} characters, at most {MAX_NAME}"
            raise RowError(Reason.UNPRINTABLE_ID, detail)
        start, end = cells.start or 0.0, cells.end
        if not (0 <= start < math.inf and (end is None or start < end < math.inf)):
            raise RowError(Reason.OUTSIDE_RECORDING, f"from {start:g} to {end} s is no part")
        here = f"row {number}" + (f" of {self._table}" if self._several else "")
        self._seen[utterance_id] = here
        return Utterance(
            utterance_id,
            audio,
            cells.text,
            cells.speaker or self.folder.config.speaker,
            language,
            number,
            start,
            end,
            cells.split_id,
        )

    def _find(self, cells: Cells) -> Path:
        if cells.member is not None:
            return Path(f"{cells.audio}#{cells.member}")
        return self.audio.find(cells.audio, self._table.rpartition("/")[0])

    def _language_of(self, cells: Cells) -> str:
        """What is spoken; refuses what `corpus.only` leaves out, and what is in no language that is
        read.

        Raises:
            UserError: `corpus.only` names a column that there is not.
        """
        config = self.folder.config
        columns = {**cells.others, "speaker": cells.speaker or config.speaker}
        if cells.language:
            columns["language"] = cells.language
        self._columns |= columns.keys()
        for name, values in config.only.items():
            if name not in self._columns:
                raise UserError(
                    f"{config.path}: corpus.only: no column {name}; there are "
                    f"{', '.join(sorted(columns))[:MAX_NOTE]}"
                )
            if (value := columns.get(name, "")) not in values:
                detail = f"{name} is {value[:MAX_NAME]}"
                raise RowError(Reason.LEFT_OUT_BY_ONLY, detail)
        if not cells.language:
            return self._languages[0]
        for code in self._languages:
            if _same_language(cells.language, code):
                return code
        known = ", ".join(self._languages)
        detail = f"{cells.language[:MAX_NAME]}; this is prepared as {known} (corpus.languages)"
        raise RowError(Reason.OTHER_LANGUAGE, detail)


def seconds(value: object) -> float | None:
    """A time in seconds from a cell: a number, ``H:MM:SS.mmm``, or with a decimal comma.

    Raises:
        RowError: it is no time.
    """
    if value is None or value == "":
        return None
    text = str(value).strip()
    if match := re.fullmatch(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,9})?)", text):
        hours, minutes, rest = match.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    try:
        number = float(text.replace(",", ".")) if len(text) <= 40 else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise RowError(Reason.OUTSIDE_RECORDING, f"{text[:40]} is no time in seconds")
    return number


def _segment_suffix(start: float | None) -> str:
    return "" if start is None else f"_{round(1000 * start):08d}"


def _same_language(tag: str, code: str) -> bool:
    """Whether two tags have the same primary subtag (`am-ET`, `am`)."""
    return re.split("[-_]", tag.casefold())[0] == re.split("[-_]", code.casefold())[0]

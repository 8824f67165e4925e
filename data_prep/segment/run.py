"""A folder of long recordings with their texts -> a corpus folder, recording by recording."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data_prep.ray_data import ray_data, ray_is_there
from data_prep.readers.corpus_folder import CorpusFolder
from data_prep.recordings import opened
from data_prep.segment.align import PAUSE, align
from data_prep.segment.cut import CutConfig, LeftOut, Piece, cut
from data_prep.segment.sound import hear
from data_prep.segment.texts import Part, read_parts, recordings_with_texts
from dimts.audio.decoded import AudioError
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.core.untrusted import inside
from dimts.features.config import CorpusConfig
from dimts.storage.files import link_or_copy, write_atomic
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

VERSION = 1
"""To be raised when the same recording would be cut otherwise."""
METADATA, LEFT_OUT, WORK, RECORDINGS = "metadata.csv", "left_out.csv", ".work", "recordings"
UNREAD = "cannot be read"
"""What is tried again the next time: PyAV may be there then."""
MIN_PARTS = 5
"""Of a recording's text; fewer say nothing of how its letters sound."""


class SegmentSettings(NamedTuple):
    """What an utterance depends on beside recording and text."""

    recordings: Path
    text: TextConfig
    cut: CutConfig


class Segmented(NamedTuple):
    """What came of a folder, by recording, and the recordings that have no text."""

    pieces: dict[str, list[Piece]]
    left: dict[str, list[LeftOut]]
    without_text: list[str]

    @property
    def summary(self) -> str:
        """Lines to be printed."""
        seconds = sum(p.end - p.start for pieces in self.pieces.values() for p in pieces)
        n = sum(map(len, self.pieces.values()))
        lines = [f"recordings  {len(self.pieces)}", f"utterances  {n}, {seconds / 60:.1f} minutes"]
        reasons = Counter(one.reason for left in self.left.values() for one in left)
        lines += [f"left out    {count} {reason}" for reason, count in reasons.most_common()]
        if self.without_text:
            shown = ", ".join(self.without_text[:5])
            lines.append(f"no text     {len(self.without_text)} recordings, such as {shown}")
        return "\n".join(lines) + "\n"


def segment(settings: SegmentSettings, out: Path, on_ray: bool | None = None) -> Segmented:
    """Bring a corpus folder up to date with long recordings and their texts.

    Recordings that were cut before, with the same text and settings, are not read again; a killed
    run goes on with those that are missing.

    Args:
        on_ray: whether Ray Data distributes the recordings; None: if there are several.

    Raises:
        UserError: no recording has a text, a text cannot be read, or nothing of it was found.
    """
    folder = CorpusFolder(CorpusConfig(path=settings.recordings))
    pairs, without = recordings_with_texts(folder)
    if not pairs:
        raise UserError(
            f"{settings.recordings}: no recording has a text of the same name (.txt, .srt, .vtt, "
            ".csv, .TextGrid)"
        )
    for audio in pairs:
        try:
            inside(settings.recordings, audio)
        except (OSError, ValueError) as error:
            raise UserError(f"{settings.recordings}: {error}") from error
    work = out / WORK
    with locked(work / "lock", f"{out}: process PID is at it"):
        jobs = [
            _Job(audio, read_parts(folder, text), settings).keyed() for audio, text in pairs.items()
        ]
        missing = [job for key, job in jobs if not (work / f"{key}.json").exists()]
        keys = {job.audio: key for key, job in jobs}
        for audio, result in _results(missing, on_ray):
            write_atomic(work / f"{keys[audio]}.json", result)
        made = Segmented({}, {}, without)
        for audio, key in keys.items():
            values = json.loads((work / f"{key}.json").read_text(encoding="utf-8"))
            made.pieces[audio] = [Piece(*row) for row in values["pieces"]]
            made.left[audio] = [LeftOut(*row) for row in values["left"]]
        _publish(settings.recordings, out, made)
        unread = {a for a, left in made.left.items() if any(UNREAD in one.reason for one in left)}
        known = {key for audio, key in keys.items() if audio not in unread}
        for file in work.glob("*.json"):
            if file.stem not in known:
                file.unlink()
    if not any(made.pieces.values()):
        raise UserError(
            f"{settings.recordings}: nothing of the texts was found in the recordings; is it the "
            f"right text and language? See {out / LEFT_OUT}"
        )
    return made


class _Job(NamedTuple):
    audio: str
    parts: list[Part]
    settings: SegmentSettings

    def keyed(self) -> tuple[str, _Job]:
        """With what tells whether it was done before."""
        status = (self.settings.recordings / self.audio).stat()
        language = load_language(self.settings.text.language)
        return fingerprint(
            VERSION, self.audio, status.st_size, status.st_mtime_ns,
            [(part.text, part.ends, str(part.time)) for part in self.parts],
            language, self.settings.text.switches, self.settings.cut,
        ), self  # fmt: skip


def _results(jobs: Sequence[_Job], on_ray: bool | None) -> Iterator[tuple[str, str]]:
    """Recordings and what came of them as JSON, in no fixed order."""
    if on_ray is None:
        on_ray = ray_is_there() or (len(jobs) > 1 and n_cores() > 1)
    if not jobs or not on_ray:
        yield from ((job.audio, _segment_one(job)) for job in jobs)
        return
    with ray_data("recordings were cut"):
        import ray

        rows = ray.data.from_items(
            [{"number": n} for n in range(len(jobs))], override_num_blocks=len(jobs)
        )
        results = rows.map(partial(_segment_row, jobs=list(jobs)), num_cpus=1)
        for row in results.iter_rows():
            yield row["audio"], row["result"]


def _segment_row(row: dict[str, Any], jobs: Sequence[_Job]) -> dict[str, Any]:
    job = jobs[row["number"]]
    return {"audio": job.audio, "result": _segment_one(job)}


def _segment_one(job: _Job) -> str:
    """Utterances of a recording, and what is left out, as JSON."""
    from dimts.core.threads import one_thread

    text = job.settings.text
    tokenizer = Tokenizer.from_language(load_language(text.language), text)
    usable, tokens, left = [], [], []
    for part in job.parts:
        if not part.readable:
            left.append(LeftOut(None, None, part.text, "unreadable_cue"))
            continue
        try:
            tokens.append(_tokens(part.text, tokenizer))
            usable.append(part)
        except UserError as error:
            left.append(LeftOut(None, None, part.text, f"unreadable: {error}"))
    pieces: list[Piece] = []
    try:
        with one_thread(), threadpool_limits(1):  # of torch, and of numpy's matrices
            sound = hear(partial(opened, job.settings.recordings), job.audio)
            if len(tokens) >= MIN_PARTS:
                found = align(sound, tokens, [part.time for part in usable], tokenizer)
                pieces, others = cut(sound, usable, found, job.settings.cut)
                left += others
            else:
                left += [LeftOut(None, None, part.text, "too_few_sentences") for part in usable]
    except (AudioError, OSError) as error:
        why = error.detail if isinstance(error, AudioError) else error.strerror or str(error)
        left.append(LeftOut(None, None, "", f"{UNREAD}: {why}"))
    return json.dumps({"pieces": pieces, "left": left}, ensure_ascii=False)


def _tokens(text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Letters of a text as it is spoken, one `PAUSE` between words."""
    pauses = set(tokenizer.pause_ids)
    ids = [PAUSE if i in pauses else i for i in tokenizer.encode(text)[1:-1]]
    kept = [i for n, i in enumerate(ids) if i != PAUSE or (n and ids[n - 1] != PAUSE)]
    return np.array(kept[:-1] if kept[-1] == PAUSE else kept, np.int64)


def _publish(recordings: Path, out: Path, made: Segmented) -> None:
    """Write the corpus: recordings as links, the table of utterances, and what is left out."""
    utterances, left_out = [], []
    for audio, pieces in sorted(made.pieces.items()):
        name = f"{RECORDINGS}/{audio}"
        source, target = recordings / audio, out / name
        if pieces and not (target.exists() and target.samefile(source)):
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, target)
        for start, end, text, confidence in pieces:
            utterances.append((name, f"{start:.2f}", f"{end:.2f}", text, f"{confidence:.2f}"))
        for one in sorted(made.left[audio], key=_time):
            times = ("" if t is None else f"{t:.2f}" for t in (one.start, one.end))
            left_out.append((audio, *times, one.reason, one.text))
    header = ("file_name", "start", "end", "text", "confidence")
    write_atomic(out / METADATA, _table([header, *utterances], "|"))
    header = ("recording", "from", "to", "reason", "what")
    write_atomic(out / LEFT_OUT, _table([header, *left_out], ","))


def _time(one: LeftOut) -> float:
    return math.inf if one.start is None else one.start


def _table(rows: Sequence[tuple[str, ...]], delimiter: str) -> str:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return written.getvalue()

"""What a run tells: `quarantine.csv`, and a summary for people."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import numpy as np

from data_prep.checks import Row
from data_prep.unexpanded import unexpanded_lines
from data_prep.utterance import Rejected, Utterance
from dimts.audio.cleaning import LONG_PAUSE_SECONDS
from dimts.core.untrusted import printable
from dimts.features.manifest import QUARANTINE, SPLITS, Manifest
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig

MAX_CELL, MAX_NOTE = 300, 500
NOISY_DB = -60.0
MAX_SPEAKER = 24
SHOWN_SPEAKERS = 10


def quarantine_csv(rejected: Iterable[Rejected]) -> str:
    """Rows that are not used, in the order of the corpus: row, id, reason, detail.

    Each is one line whatever stands in the corpus, and can be shown in a terminal.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "id", "reason", "detail"])
    for row in sorted(rejected, key=lambda row: row.row):
        cells = (printable(cell, MAX_CELL) for cell in (row.id, row.reason.value, row.detail))
        writer.writerow([row.row, *cells])
    return text.getvalue()


def read_quarantine(features: AnyPath) -> list[dict[str, str]]:
    """The rows of the `quarantine_csv` of a folder of features; none if there is no such file."""
    file = features / QUARANTINE
    text = file.read_bytes().decode() if file.exists() else ""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def count_reasons(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Reason -> number of rows, the most frequent first."""
    counts = Counter(row.reason.value for row in rejected)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def summary(
    folder: AnyPath, manifest: Manifest, accepted: Sequence[Row], notes: Sequence[str] = ()
) -> str:
    """Rows, hours, speakers, speech rate, what was refused and where everything is.

    `notes` are the reader's: what it took for what.
    """
    n_rows, n_used = manifest.corpus.n_rows, manifest.n_utterances
    own = manifest.corpus.languages[0]
    lines = [f"corpus    {manifest.corpus.path}", *(printable(note, MAX_NOTE) for note in notes)]
    lines.append(f"used      {n_used} of {n_rows} rows, {_duration(manifest.hours)} of speech")
    for name in SPLITS:
        split = manifest.splits[name]
        lines.append(f"  {name:<6}  {split.n_utterances} utterances, {_duration(split.hours)}")
    lines += _shares("languages", accepted, attrgetter("language"))
    lines += _shares("speakers", accepted, attrgetter("speaker"))
    if manifest.quarantined:
        lines.append(f"refused   {n_rows - n_used} rows, see {folder / QUARANTINE}")
        width = max(map(len, manifest.quarantined))
        lines += [f"  {name:<{width}}  {n}" for name, n in manifest.quarantined.items()]
    rates = [len(row.text) / row.seconds for row in accepted]
    low, median, high = np.percentile(rates, [5, 50, 95])
    lines.append(
        f"pace      {median:.1f} characters a second, 9 of 10 between {low:.1f} and {high:.1f}"
    )
    lines += _cleaning(accepted)
    train = {row.text for row in accepted if row.split == "train"}
    shared = sum(row.split != "train" and row.text in train for row in accepted)
    if shared:
        lines.append(f"note      {shared} val and test utterances have a text that is in train too")
    for code in manifest.corpus.languages:
        text = manifest.text if code == own else TextConfig(language=code)
        said = (r.utterance.text for r in accepted if r.utterance.language == code)
        lines += unexpanded_lines(text, said)
    lines.append(f"features  {folder}, fingerprint {manifest.fingerprint}")
    return "\n".join(lines) + "\n"


def _shares(what: str, accepted: Sequence[Row], of: Callable[[Utterance], str]) -> list[str]:
    """How much the ones with the most speech say, if there are several."""
    seconds: dict[str, float] = defaultdict(float)
    for row in accepted:
        seconds[of(row.utterance)] += row.seconds
    if len(seconds) < 2:
        return []
    lines = [f"{what:<10}{len(seconds)}"]
    most = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    for name, spoken in most[:SHOWN_SPEAKERS]:
        lines.append(f"  {printable(name, MAX_SPEAKER):<{MAX_SPEAKER}}  {_duration(spoken / 3600)}")
    if rest := most[SHOWN_SPEAKERS:]:
        least, hours = rest[-1][1] / 60, sum(spoken for _, spoken in rest) / 3600
        lines.append(f"  {len(rest)} more, {_duration(hours)}; the least says {least:.1f} min")
    return lines


def _cleaning(accepted: Sequence[Row]) -> list[str]:
    """What was found in recordings and done to them, where there is anything to tell."""
    done = [row.features[0].cleaned for row in accepted]
    offset = sum(bool(cleaned.offset) for cleaned in done)
    noisy = sum(cleaned.noise_db > NOISY_DB for cleaned in done)
    pauses = [cleaned.pause_seconds for cleaned in done if cleaned.pause_seconds]
    shortened = [cleaned.cut_seconds for cleaned in done if cleaned.cut_seconds]
    gains = [cleaned.gain_db for cleaned in done if cleaned.gain_db]
    lines = [
        (offset, "with a DC offset, which was removed"),
        (noisy, f"with steady noise above {NOISY_DB:g} dBFS"),
        (
            len(pauses),
            f"with pauses of {LONG_PAUSE_SECONDS:g} s and more inside, {sum(pauses):.0f} s in all"
            + ("" if shortened else " (prepare.cleaning.max_pause_seconds shortens them)"),
        ),
        (len(shortened), f"with shortened pauses, {sum(shortened):.0f} s in all"),
        (len(gains), f"brought to another level, by {np.mean(np.abs(gains or 0)):.1f} dB"),
    ]
    return [f"cleaning  {n} recordings {what}" for n, what in lines if n]


def _duration(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"

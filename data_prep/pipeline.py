"""Corpus -> features: read, check, extract what is new, assemble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from data_prep.arrow_writer import write_atomic
from data_prep.assemble import Accepted, plan_shards, publish, statistics
from data_prep.checks import Candidate, check_text, check_text_fits_audio
from data_prep.engine import choose_engine, extract_all
from data_prep.extract import ExtractSettings
from data_prep.pool import load_ahead
from data_prep.readers import READERS
from data_prep.recordings import Root, root_of
from data_prep.remote_features import fetch_known, send, send_quarantine, working_folder
from data_prep.report import count_reasons, quarantine_csv, summary
from data_prep.splits import assign_splits
from data_prep.store import Features, Refusal, Result, Store, locked
from data_prep.utterance import Rejected, Segment, Utterance
from dimts import __version__
from dimts.audio.files import MAX_SECONDS
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.manifest import (
    MANIFEST,
    QUARANTINE,
    SPLITS,
    SUMMARY,
    CorpusFacts,
    ExtractorFacts,
    Manifest,
    ShardFacts,
    SplitFacts,
    SplitName,
    read_manifest,
)
from dimts.features.schema import Extractor
from dimts.storage.paths import AnyPath
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

SECONDS_AN_HOUR = 3600
Progress = Callable[[int], object]


def prepare(
    corpus: CorpusConfig,
    text: TextConfig,
    extractors: Sequence[Extractor],
    prepare: PrepareConfig,
    on_chunk: Progress | None = None,
) -> Manifest:
    """Bring the folder `prepare.features` up to date with the corpus and the settings.

    Only recordings that are new or changed are read; a killed run goes on where it stopped, and
    the files it ends with are those of a run that was never killed. A folder in object storage is
    made on this machine and sent when it is whole.

    Args:
        corpus: what to read.
        text: how its texts are normalised.
        extractors: what to make of each utterance. The first one trims the silence around it, and
            a text is compared with its length; the others are given the speech alone.
        prepare: limits, splits, where to.
        on_chunk: called with the number of segments each time some are extracted and safe.

    Raises:
        UserError: there is no such corpus, no row of it can be used, or another run is at it.
    """
    place, root = prepare.features, root_of(corpus.path)
    folder = working_folder(place)
    rows = read_rows(corpus, text)
    if not (folder / MANIFEST).exists() and _needs_pool(root, rows, prepare):
        load_ahead()
    candidates, rejected = _check_texts(rows, text)
    with locked(folder):
        fetch_known(place, folder)
        store = Store(folder, extractors)
        extraction = _Extraction(root, store, prepare, on_chunk)
        accepted, refused = extraction.run(candidates)
        rejected += refused
        _write_if_new(folder / QUARANTINE, quarantine_csv(rejected))
        if not accepted:
            send_quarantine(place, folder)
            raise UserError(_nothing_left(corpus.path, place, rejected))
        manifest = _finish(corpus, text, prepare, store, accepted, rejected)
        used = {made.key for row in accepted for made in row.features}
        unused = [result for result in extraction.results if result.key not in used]
        store.settle({c.utterance.segment.audio: None for c in candidates}, unused)
        _write_if_new(folder / SUMMARY, summary(place, manifest, accepted))
        _write_if_new(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        store.sweep()
        send(place, folder)
    return manifest


def read_rows(corpus: CorpusConfig, text: TextConfig) -> list[Utterance | Rejected]:
    """Every row of the corpus, or the reason why there is none where one should be.

    Raises:
        UserError: there is no such corpus, or it has no rows at all.
    """
    code = corpus.language or load_language(text.language).code
    rows = list(READERS[corpus.reader](corpus, code))
    if not rows:
        raise UserError(f"{corpus.path}: the corpus has no rows")
    return rows


def _needs_pool(root: Root, rows: Iterable[Utterance | Rejected], prepare: PrepareConfig) -> bool:
    """Whether processes will be started, as far as is known before anything else is."""
    if prepare.engine != "auto" or not isinstance(root, Path):
        return prepare.engine == "pool"
    segments = [row.segment for row in rows if not isinstance(row, Rejected)]
    return choose_engine(root, segments, prepare) == "pool"


def _check_texts(
    rows: Iterable[Utterance | Rejected], text: TextConfig
) -> tuple[list[Candidate], list[Rejected]]:
    """Every row, either with its text normalised or with the reason why not."""
    tokenizer = Tokenizer.from_language(load_language(text.language), text)
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for row in rows:
        checked = row if isinstance(row, Rejected) else check_text(row, tokenizer)
        if isinstance(checked, Rejected):
            rejected.append(checked)
        else:
            candidates.append(checked)
    return candidates, rejected


class _Extraction:
    """One extractor after the other over what the ones before it have left.

    Attributes:
        results: all that they gave, whether it is used or not.
    """

    def __init__(
        self, root: Root, store: Store, prepare: PrepareConfig, on_chunk: Progress | None
    ) -> None:
        self._root, self._store, self._prepare = root, store, prepare
        self._on_chunk = on_chunk
        self.results: list[Result] = []

    def run(self, candidates: Iterable[Candidate]) -> tuple[list[Accepted], list[Rejected]]:
        """Utterances with features and a split, in the corpus's order, and the refused ones."""
        limits, (first, *others) = self._prepare, self._store.extractors
        settings = ExtractSettings(first, limits.trim, limits.min_seconds, limits.max_seconds)
        made: list[tuple[Candidate, list[Features]]] = [(row, []) for row in candidates]
        rejected: list[Rejected] = []
        made = self._add(made, [row.utterance.segment for row, _ in made], settings, rejected)
        fitting = []
        for row, features in made:
            n_steps = len(features[0].arrays[first.columns[0].name])
            n_frames = n_steps if first.unit == "frames" else None
            if misfit := check_text_fits_audio(row, n_frames, features[0].seconds, limits):
                rejected.append(misfit)
            else:
                fitting.append((row, features))
        made = fitting
        for extractor in others:
            speech = [
                Segment(row.utterance.segment.audio, f.start, f.start + f.seconds)
                for row, (f, *_) in made
            ]
            settings = ExtractSettings(extractor, None, 0.0, MAX_SECONDS)
            made = self._add(made, speech, settings, rejected)
        splits = assign_splits([row.utterance.id for row, _ in made], limits)
        accepted = [Accepted(*pair, split) for pair, split in zip(made, splits, strict=True)]
        return accepted, rejected

    def _add(
        self,
        made: Sequence[tuple[Candidate, list[Features]]],
        segments: Sequence[Segment],
        settings: ExtractSettings,
        rejected: list[Rejected],
    ) -> list[tuple[Candidate, list[Features]]]:
        """Those of which there are features, with them; the others are rejected."""
        results = self._extract(segments, settings)
        self.results += results.values()
        kept = []
        for (row, features), segment in zip(made, segments, strict=True):
            result = results[segment]
            if isinstance(result, Refusal):
                rejected.append(row.rejected(result.reason, result.detail))
            else:
                kept.append((row, [*features, result]))
        return kept

    def _extract(
        self, segments: Iterable[Segment], settings: ExtractSettings
    ) -> dict[Segment, Result]:
        """Features or refusal of each: known ones from the store, the rest made now."""
        store, outcomes, new = self._store, dict[Segment, str | Refusal](), list[Segment]()
        wanted = dict.fromkeys(segments)
        for segment in wanted:
            sha256 = store.sha256(self._root, segment.audio)
            key = settings.key(sha256, segment) if sha256 else ""
            if store.result(key):
                outcomes[segment] = key
            else:
                new.append(segment)
        name, quiet = settings.extractor.name, None if new else True
        chunks = extract_all(self._root, new, settings, self._prepare, store.parts)
        with closing(chunks), tqdm(total=len(new), desc=name, unit="utt", disable=quiet) as bar:
            for chunk in chunks:
                extracted = store.commit(chunk)
                outcomes |= extracted
                bar.update(len(extracted))
                if self._on_chunk:
                    self._on_chunk(len(extracted))
        results: dict[Segment, Result] = {}
        for segment in wanted:
            outcome = outcomes[segment]
            result = outcome if isinstance(outcome, Refusal) else store.result(outcome)
            assert result is not None, segment
            results[segment] = result
        return results


def _finish(
    corpus: CorpusConfig,
    text: TextConfig,
    prepare: PrepareConfig,
    store: Store,
    accepted: Sequence[Accepted],
    rejected: Sequence[Rejected],
) -> Manifest:
    """Publish the shards; what they hold as a manifest, not yet written."""
    old = _old_manifest(store.folder)
    shards = plan_shards(accepted, prepare.shard_mb)
    threads = 1 if prepare.engine == "local" else prepare.workers or n_cores()
    facts = publish(store, shards, old, threads)
    identities = [[row.split, *row.identity] for row in accepted]
    content = fingerprint(*(e.settings for e in store.extractors), text, identities)
    same = old.extractors if old and old.fingerprint == content else {}
    extractors = {
        e.name: same.get(e.name)
        or ExtractorFacts(
            version=e.version,
            settings=e.settings.model_dump(mode="json"),
            unit=e.unit,
            columns=e.columns,
            statistics={
                c.name: statistics(accepted, c, threads) for c in e.columns if c.statistics
            },
        )
        for e in store.extractors
    }
    return Manifest(
        dimts_version=__version__,
        fingerprint=content,
        extractors=extractors,
        text=text,
        corpus=CorpusFacts(
            path=corpus.path.absolute(),
            n_rows=len(accepted) + len(rejected),
            languages=tuple(sorted({row.candidate.utterance.language for row in accepted})),
            speakers=tuple(sorted({row.candidate.utterance.speaker for row in accepted})),
        ),
        splits={name: _split_facts(name, store.extractors, accepted, facts) for name in SPLITS},
        quarantined=count_reasons(rejected),
    )


def _split_facts(
    name: SplitName,
    extractors: Iterable[Extractor],
    accepted: Iterable[Accepted],
    facts: Iterable[ShardFacts],
) -> SplitFacts:
    rows = [row for row in accepted if row.split == name]
    columns = [c.name for extractor in extractors for c in extractor.columns if c.ragged]
    return SplitFacts(
        n_utterances=len(rows),
        hours=sum(row.seconds for row in rows) / SECONDS_AN_HOUR,
        lengths={column: sum(len(row.arrays[column]) for row in rows) for column in columns},
        shards=tuple(fact for fact in facts if fact.name.startswith(f"{name}-")),
    )


def _old_manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except UserError:
        return None


def _write_if_new(file: Path, content: str) -> None:
    if not file.exists() or file.read_bytes() != content.encode():
        write_atomic(file, content)


def _nothing_left(corpus: AnyPath, folder: AnyPath, rejected: Sequence[Rejected]) -> str:
    reasons = ", ".join(f"{n} {name}" for name, n in count_reasons(rejected).items())
    n_rows = len(rejected)
    return f"{corpus}: none of {n_rows} rows can be used ({reasons}); see {folder / QUARANTINE}"

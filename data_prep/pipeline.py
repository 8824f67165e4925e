"""Corpus -> features: read, check, extract what is new, assemble."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_prep.assemble import plan_shards, publish, statistics
from data_prep.checks import Row, check_text, check_text_fits_audio, without_rare_speakers
from data_prep.engine import extract_all
from data_prep.extract import ExtractSettings, Result
from data_prep.languages import corpus_tokenizer
from data_prep.left_out import leave_out
from data_prep.readers import read_corpus
from data_prep.recordings import Root, root_of
from data_prep.remote_features import fetch_known, send
from data_prep.report import count_reasons, quarantine_csv, summary
from data_prep.splits import assign_splits
from data_prep.store import Store
from data_prep.utterance import Rejected, Segment, Utterance
from dimts import __version__
from dimts.core.config import fingerprint
from dimts.core.environment import n_cores
from dimts.core.errors import UserError
from dimts.core.lock import locked
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.manifest import (
    MANIFEST,
    QUARANTINE,
    SPLITS,
    SUMMARY,
    CorpusFacts,
    ExtractorFacts,
    Manifest,
    SplitFacts,
    read_manifest,
)
from dimts.features.schema import Extractor
from dimts.storage.files import copy_to, write_atomic
from dimts.storage.paths import StoragePath, folder_here
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig

SECONDS_A_MINUTE = 60
OUTDATED = (
    "note: {}: was made without cleaning, so every recording is read again; to finish a run that "
    "learns from it, stop this, finish the run, then prepare"
)
Progress = Callable[[int], object]
ExtractSegments = Callable[[Sequence[Segment], ExtractSettings], dict[Segment, Result]]


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
        extractors: what to make of each utterance. The first one trims the silence around it, and
            a text is compared with its length. All are given the same speech.
        on_chunk: called with the number of segments each time some are extracted and safe.

    Raises:
        UserError: there is no such corpus, no row of it can be used, or another run is at it.
    """
    place, root = prepare.features, root_of(corpus.path.absolute())
    folder = folder_here(place, "prepare")
    rows, rejected, notes = _read_corpus(corpus, text)
    remote = place if isinstance(place, StoragePath) else None
    busy = f"{folder}: another run (process PID) is writing there; wait for it"
    with locked(folder / Store.LOCK, busy):
        if remote:
            fetch_known(remote, folder)
        store = Store(folder, extractors)
        if store.predates_cleaning:
            print(OUTDATED.format(place), file=sys.stderr)
        extract = partial(_extract, root, store, prepare, on_chunk)
        accepted, refused, results = _add_features(rows, extractors, prepare, extract, corpus, text)
        rejected += refused
        _write_if_new(folder / QUARANTINE, quarantine_csv(rejected))
        if not accepted:
            copy_to(folder / QUARANTINE, place / QUARANTINE)
            reasons = ", ".join(f"{n} {name}" for name, n in count_reasons(rejected).items())
            raise UserError(
                f"{corpus.path}: none of {len(rejected)} rows can be used ({reasons}); "
                f"see {place / QUARANTINE}"
            )
        manifest = _publish(corpus, text, prepare, store, accepted, rejected)
        used = {made.key for row in accepted for made in row.features}
        unused = [result for result in results if result.key not in used]
        store.settle({row.utterance.segment.audio: None for row in rows}, unused)
        _write_if_new(folder / SUMMARY, summary(place, manifest, accepted, notes))
        _write_if_new(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        store.sweep()
        if remote:
            send(remote, folder)
    return manifest


def _read_corpus(
    corpus: CorpusConfig, text: TextConfig
) -> tuple[list[Row], list[Rejected], list[str]]:
    """Every row, either with its text normalised or with the reason why not; the reader's notes.

    Raises:
        UserError: there is no such corpus, or it has no rows at all.
    """
    language = load_language(text.language)
    rows, notes = read_corpus(corpus, corpus.language or language.code)
    if not rows:
        raise UserError(f"{corpus.path}: the corpus has no rows")
    rows = leave_out(corpus.path, rows)
    tokenizer = corpus_tokenizer(corpus, text)
    checked = [row if isinstance(row, Rejected) else check_text(row, tokenizer) for row in rows]
    good = [row for row in checked if isinstance(row, Row)]
    return good, [row for row in checked if isinstance(row, Rejected)], notes


def _add_features(
    rows: list[Row],
    extractors: Sequence[Extractor],
    limits: PrepareConfig,
    extract: ExtractSegments,
    corpus: CorpusConfig,
    text: TextConfig,
) -> tuple[list[Row], list[Rejected], list[Result]]:
    """Rows with features and a split, in the corpus's order; the refused ones; all results.

    One extractor after the other is given what the ones before it have left. Speakers with less
    than `corpus.min_minutes` of speech are left out.
    """
    trims, *others = extractors
    longest, cleaning = limits.max_seconds, limits.cleaning
    in_turn = [ExtractSettings(trims, limits.trim, limits.min_seconds, longest, cleaning)]
    # All trim the same wave, so that what two of one sample rate make has the same frames.
    in_turn += [ExtractSettings(e, limits.trim, 0.0, longest, cleaning) for e in others]
    rejected: list[Rejected] = []
    results: list[Result] = []
    for settings in in_turn:
        made = extract([row.utterance.segment for row in rows], settings)
        results += made.values()
        kept = []
        for row in rows:
            result = made[row.utterance.segment]
            if result.reason:
                rejected.append(row.utterance.rejected(result.reason, result.detail))
            elif not row.features and (misfit := check_text_fits_audio(row, result, trims, limits)):
                rejected.append(misfit)
            else:
                row.features.append(result)
                kept.append(row)
        rows, few = without_rare_speakers(kept, corpus.min_minutes * SECONDS_A_MINUTE)
        rejected += few
    if limits.max_misfit is not None:
        from data_prep.misfit import without_misfits  # brings the aligner's compiler

        tokenizer = corpus_tokenizer(corpus, text)
        rows, bad = without_misfits(rows, limits.max_misfit, tokenizer)
        rejected += bad
    splits = assign_splits([row.utterance.split_id or row.utterance.id for row in rows], limits)
    for row, split in zip(rows, splits, strict=True):
        row.split = split
    return rows, rejected, results


def _extract(
    root: Root,
    store: Store,
    prepare: PrepareConfig,
    on_chunk: Progress | None,
    segments: Sequence[Segment],
    settings: ExtractSettings,
) -> dict[Segment, Result]:
    """What comes of each segment, known or made now, in their order."""
    results: dict[Segment, Result] = {}
    new = []
    for segment in dict.fromkeys(segments):
        sha256 = store.sha256(root, segment.audio)
        if sha256 and (known := store.result(settings.key(sha256, segment))):
            results[segment] = known
        else:
            new.append(segment)
    name, quiet = settings.extractor.name, None if new else True
    chunks = extract_all(root, new, settings, prepare, store.work)
    with closing(chunks), tqdm(total=len(new), desc=name, unit="utt", disable=quiet) as bar:
        for chunk in chunks:
            extracted = store.commit(chunk)
            results |= extracted
            bar.update(len(extracted))
            if on_chunk:
                on_chunk(len(extracted))
    return {segment: results[segment] for segment in segments}


def _publish(
    corpus: CorpusConfig,
    text: TextConfig,
    prepare: PrepareConfig,
    store: Store,
    accepted: Sequence[Row],
    rejected: Sequence[Rejected],
) -> Manifest:
    """Publish the shards; what they hold as a manifest, not yet written."""
    try:
        old = read_manifest(store.folder)
    except UserError:
        old = None
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
            statistics={c.name: statistics(accepted, c) for c in e.columns if c.statistics},
        )
        for e in store.extractors
    }
    utterances = [row.utterance for row in accepted]
    ragged = [c.name for e in store.extractors for c in e.columns if c.ragged]
    splits = {}
    for name in SPLITS:
        rows = [row for row in accepted if row.split == name]
        splits[name] = SplitFacts(
            n_utterances=len(rows),
            hours=sum(row.seconds for row in rows) / 3600,
            lengths={column: sum(len(row.arrays[column]) for row in rows) for column in ragged},
            shards=tuple(fact for fact in facts if fact.name.startswith(f"{name}-")),
        )
    return Manifest(
        dimts_version=__version__,
        fingerprint=content,
        extractors=extractors,
        text=text,
        corpus=CorpusFacts(
            path=corpus.path.absolute(),
            n_rows=len(accepted) + len(rejected),
            languages=_languages(utterances, corpus.language or load_language(text.language).code),
            speakers=tuple(sorted({utterance.speaker for utterance in utterances})),
        ),
        splits=splits,
        quarantined=count_reasons(rejected),
    )


def _languages(utterances: Sequence[Utterance], own: str) -> tuple[str, ...]:
    """Codes of what is spoken; that of `text` first, which is what the set is of."""
    others = {utterance.language for utterance in utterances} - {own}
    return (own, *sorted(others))


def _write_if_new(file: Path, content: str) -> None:
    if not file.exists() or file.read_bytes() != content.encode():
        write_atomic(file, content)

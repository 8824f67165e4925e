"""Corpus -> features: read, check, extract what is new, assemble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from data_prep.arrow_writer import write_atomic
from data_prep.assemble import Accepted, mel_statistics, plan_shards, publish
from data_prep.checks import Candidate, check_text, check_text_fits_audio
from data_prep.engine import choose_engine, extract_all
from data_prep.extract import ExtractSettings
from data_prep.pool import load_ahead
from data_prep.readers import READERS
from data_prep.recordings import Root, root_of
from data_prep.remote_features import fetch_known, send, send_quarantine, working_folder
from data_prep.report import count_reasons, quarantine_csv, summary
from data_prep.splits import assign_splits
from data_prep.store import Features, Refusal, Store, locked
from data_prep.utterance import Rejected, Utterance
from dimts import __version__
from dimts.audio.mel import MelConfig
from dimts.core.config import fingerprint
from dimts.core.errors import UserError
from dimts.core.machine import n_cores
from dimts.features.config import CorpusConfig, PrepareConfig
from dimts.features.manifest import (
    MANIFEST,
    QUARANTINE,
    SPLITS,
    SUMMARY,
    CorpusFacts,
    Manifest,
    ShardFacts,
    SplitFacts,
    SplitName,
    read_manifest,
)
from dimts.storage.paths import AnyPath
from dimts.text.language import load_language
from dimts.text.normaliser import Normaliser, TextConfig

SECONDS_AN_HOUR = 3600
Progress = Callable[[int], object]


def prepare(
    corpus: CorpusConfig,
    text: TextConfig,
    mel: MelConfig,
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
        mel: what a mel is made of.
        prepare: limits, splits, where to.
        on_chunk: called with the number of recordings each time some are extracted and safe.

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
        store = Store(folder)
        settings = ExtractSettings(
            mel=mel,
            trim=prepare.trim,
            min_seconds=prepare.min_seconds,
            max_seconds=prepare.max_seconds,
        )
        results = _extract(root, candidates, store, settings, prepare, on_chunk)
        accepted, refused = _judge(candidates, results, prepare)
        rejected += refused
        _write_if_new(folder / QUARANTINE, quarantine_csv(rejected))
        if not accepted:
            send_quarantine(place, folder)
            raise UserError(_nothing_left(corpus.path, place, rejected))
        manifest = _finish(corpus, text, mel, prepare, store, accepted, rejected)
        used = {row.features.key for row in accepted}
        unused = [result for result in results.values() if result.key not in used]
        store.settle(results, unused, mel.n_mels)
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
    audios = [str(row.audio) for row in rows if not isinstance(row, Rejected)]
    return choose_engine(root, audios, prepare) == "pool"


def _check_texts(
    rows: Iterable[Utterance | Rejected], text: TextConfig
) -> tuple[list[Candidate], list[Rejected]]:
    """Every row, either with its text normalised or with the reason why not."""
    normaliser = Normaliser(load_language(text.language), text)
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for row in rows:
        checked = row if isinstance(row, Rejected) else check_text(row, normaliser)
        if isinstance(checked, Rejected):
            rejected.append(checked)
        else:
            candidates.append(checked)
    return candidates, rejected


def _extract(
    root: Root,
    candidates: Sequence[Candidate],
    store: Store,
    settings: ExtractSettings,
    prepare: PrepareConfig,
    on_chunk: Progress | None,
) -> dict[str, Features | Refusal]:
    """Features or refusal of each recording: known ones from the store, the rest made now."""
    keys: dict[str, str | Refusal] = {}
    new: list[str] = []
    for audio in dict.fromkeys(candidate.audio for candidate in candidates):
        sha256 = store.sha256(root, audio)
        key = settings.key(sha256) if sha256 else ""
        if store.result(key):
            keys[audio] = key
        else:
            new.append(audio)
    with (
        closing(extract_all(root, new, settings, prepare, store.parts)) as chunks,
        tqdm(total=len(new), desc="mel", unit="utt", disable=None if new else True) as bar,
    ):
        for chunk in chunks:
            outcomes = store.commit(chunk)
            keys |= outcomes
            bar.update(len(outcomes))
            if on_chunk:
                on_chunk(len(outcomes))
    results: dict[str, Features | Refusal] = {}
    for audio, outcome in keys.items():
        result = outcome if isinstance(outcome, Refusal) else store.result(outcome)
        assert result is not None, audio
        results[audio] = result
    return results


def _judge(
    candidates: Iterable[Candidate],
    results: dict[str, Features | Refusal],
    prepare: PrepareConfig,
) -> tuple[list[Accepted], list[Rejected]]:
    """Utterances with features and a split, in the corpus's order, and the refused ones."""
    fitting: list[tuple[Candidate, Features]] = []
    rejected: list[Rejected] = []
    for candidate in candidates:
        result = results[candidate.audio]
        if isinstance(result, Refusal):
            rejected.append(candidate.rejected(result.reason, result.detail))
            continue
        misfit = check_text_fits_audio(candidate, len(result.mel), result.seconds, prepare)
        if misfit:
            rejected.append(misfit)
        else:
            fitting.append((candidate, result))
    splits = assign_splits([candidate.utterance.id for candidate, _ in fitting], prepare)
    accepted = [
        Accepted(candidate, features, split)
        for (candidate, features), split in zip(fitting, splits, strict=True)
    ]
    return accepted, rejected


def _finish(
    corpus: CorpusConfig,
    text: TextConfig,
    mel: MelConfig,
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
    content = fingerprint(mel, text, [[row.split, *row.identity] for row in accepted])
    if old and old.fingerprint == content:
        mean, std = list(old.mel_mean), list(old.mel_std)
    else:
        mean, std = mel_statistics(accepted, mel.n_mels, threads)
    return Manifest(
        dimts_version=__version__,
        fingerprint=content,
        mel=mel,
        text=text,
        corpus=CorpusFacts(
            path=corpus.path.absolute(),
            n_rows=len(accepted) + len(rejected),
            languages=tuple(sorted({row.candidate.utterance.language for row in accepted})),
            speakers=tuple(sorted({row.candidate.utterance.speaker for row in accepted})),
        ),
        splits={name: _split_facts(name, accepted, facts) for name in SPLITS},
        mel_mean=tuple(mean),
        mel_std=tuple(std),
        quarantined=count_reasons(rejected),
    )


def _split_facts(
    name: SplitName, accepted: Iterable[Accepted], facts: Iterable[ShardFacts]
) -> SplitFacts:
    rows = [row for row in accepted if row.split == name]
    return SplitFacts(
        n_utterances=len(rows),
        n_frames=sum(len(row.features.mel) for row in rows),
        hours=sum(row.features.seconds for row in rows) / SECONDS_AN_HOUR,
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

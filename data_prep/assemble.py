"""Results -> shards and manifest. The same rows make the same bytes, whatever came before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_prep.arrow_writer import BATCH_BYTES, grouped
from data_prep.checks import Row
from data_prep.extract import hash_file
from data_prep.store import CLEANED_SPEECH, Store, key_column, shards_in
from dimts.core.config import fingerprint
from dimts.features.feature_set import SHARD_FINGERPRINT, read_batches
from dimts.features.manifest import MANIFEST, Manifest, ShardFacts, SplitName, Statistics
from dimts.features.schema import Column, Extractor
from dimts.storage.files import atomic_file

SHARD_VERSION = 2
"""To be raised when the same rows would be other files."""
MIN_STD = 1e-2
"""A value that never changes (a mel bin above the corpus's band) must not be divided by zero."""

_MB = 1_000_000


class Shard(NamedTuple):
    """One Arrow file to be; one that has the fingerprint need not be written again."""

    name: str
    rows: Sequence[Row]
    fingerprint: str


def plan_shards(accepted: Iterable[Row], shard_mb: float) -> list[Shard]:
    """Fill files of each split up to `shard_mb` of arrays, in the order of the corpus."""
    rows_of: dict[SplitName, list[Row]] = {}
    for row in accepted:
        rows_of.setdefault(row.split, []).append(row)
    return [
        Shard(
            f"{split}-{n:05d}.arrow", rows, fingerprint(SHARD_VERSION, [r.identity for r in rows])
        )
        for split, all_rows in rows_of.items()
        for n, rows in enumerate(grouped(all_rows, shard_mb * _MB))
    ]


def publish(
    store: Store, shards: Sequence[Shard], old: Manifest | None, threads: int
) -> list[ShardFacts]:
    """Bring the folder's Arrow files up to `shards`; the others go. No manifest stands meanwhile.

    `old` is the manifest that stood there. Returns facts of each shard, in order.
    """
    facts = old.shards if old else {}
    changed = [s for s in shards if not _is_kept(store.folder, s, facts.get(s.name))]
    # New files first come to lie beside the old ones: a kill between two renames loses no row.
    with ThreadPoolExecutor(threads) as pool:  # most of it is done without Python's lock
        written = pool.map(partial(_write, store.new_shards, store.extractors), changed)
        facts |= {fact.name: fact for fact in written}
    obsolete = {file.name for file in shards_in(store.folder)} - {s.name for s in shards}
    if changed or obsolete:
        (store.folder / MANIFEST).unlink(missing_ok=True)
    for shard in changed:
        os.replace(store.new_shards / shard.name, store.folder / shard.name)
    for name in obsolete:
        (store.folder / name).unlink()
    return [facts[shard.name] for shard in shards]


def statistics(accepted: Iterable[Row], column: Column) -> Statistics:
    """Mean and standard deviation of each value of a step over the train split's steps."""
    total, squares, n_steps = np.zeros(column.shape), np.zeros(column.shape), 0
    for row in accepted:
        if row.split == "train":
            steps = row.arrays[column.name].astype(np.float64)
            total += steps.sum(axis=0)
            squares += np.square(steps).sum(axis=0)
            n_steps += len(steps)
    mean = total / n_steps
    variance = np.maximum(squares / n_steps - mean**2, 0)
    std = np.maximum(np.sqrt(variance), MIN_STD)
    return Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _is_kept(folder: Path, shard: Shard, facts: ShardFacts | None) -> bool:
    """Whether the file that the facts are of is there, and is the shard."""
    if facts is None or facts.fingerprint != shard.fingerprint:
        return False
    try:
        n_bytes = (folder / shard.name).stat().st_size
        metadata = read_batches(folder / shard.name)[0].metadata or {}
    except (OSError, pa.ArrowException):
        return False
    found = (n_bytes, metadata.get(SHARD_FINGERPRINT))
    return found == (facts.n_bytes, facts.fingerprint.encode())


def _write(folder: Path, extractors: Sequence[Extractor], shard: Shard) -> ShardFacts:
    schema = _schema(extractors).with_metadata({SHARD_FINGERPRINT: shard.fingerprint})
    columns = [column for extractor in extractors for column in extractor.columns]
    path = folder / shard.name
    with atomic_file(path) as file, pa.ipc.new_file(file, schema) as writer:
        for rows in grouped(shard.rows, BATCH_BYTES):
            writer.write_batch(_batch(rows, schema, columns))
    stamp, sha256 = hash_file(path)
    return ShardFacts(
        name=shard.name,
        n_utterances=len(shard.rows),
        n_bytes=stamp.size,
        sha256=sha256,
        fingerprint=shard.fingerprint,
    )


def _schema(extractors: Sequence[Extractor]) -> pa.Schema:
    text = ["id", "text", "raw_text", "language", "speaker", "audio"]
    text += [key_column(extractor.name, len(extractors)) for extractor in extractors]
    fields = [(name, pa.string()) for name in text]
    fields += [(name, pa.float64()) for name in CLEANED_SPEECH]
    fields += [(c.name, c.arrow_type) for extractor in extractors for c in extractor.columns]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def _batch(rows: Sequence[Row], schema: pa.Schema, columns: Sequence[Column]) -> pa.RecordBatch:
    identities = zip(*(row.identity for row in rows), strict=True)
    found = (row.features[0] for row in rows)
    speech = zip(*((made.start, made.seconds, *made.cleaned) for made in found), strict=True)
    return pa.record_batch(
        [
            *(pa.array(column, pa.string()) for column in identities),
            *(pa.array(column, pa.float64()) for column in speech),
            *(c.pack([row.arrays[c.name] for row in rows]) for c in columns),
        ],
        schema=schema,
    )

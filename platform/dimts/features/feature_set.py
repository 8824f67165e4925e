"""Reading prepared features: memory-mapped, arrays without a copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dimts.audio.mel import Float32Array
from dimts.core.errors import UserError
from dimts.features.cache import fetch_features
from dimts.features.manifest import AGAIN, Manifest, ShardFacts, SplitName, read_manifest
from dimts.features.schema import Array, Column
from dimts.storage.paths import AnyPath, StoragePath

SHARD_FINGERPRINT = b"dimts.fingerprint"


@dataclass(frozen=True)
class FeatureSet:
    """The features of one corpus, a folder that `dimts prepare` made."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, place: str | AnyPath) -> FeatureSet:
        """Read the manifest and check that its files are there.

        Of a set in object storage this machine gets a copy, once, which all processes share.

        Raises:
            UserError: no such folder, another format version, or files that do not fit.
        """
        folder = fetch_features(place) if isinstance(place, StoragePath) else Path(place)
        manifest = read_manifest(folder)
        for shard in manifest.shards.values():
            _check_size(folder / shard.name, shard)
        return cls(folder, manifest)

    def split(self, name: SplitName) -> FeatureSplit:
        """The utterances of one split: train, val or test."""
        return FeatureSplit(self.folder, self.manifest, name)


class FeatureSplit:
    """Utterances of one split, in the corpus's order. Pickled as a path, so workers reopen it.

    Attributes:
        ids, texts, raw_texts, languages: one string an utterance; `texts` are normalised,
            `raw_texts` as the corpus has them.
        n_frames: int64 [n], of the mel.
    """

    def __init__(self, folder: Path, manifest: Manifest, name: SplitName) -> None:
        self.folder = folder
        self.manifest = manifest
        self.name = name
        self._batches = [
            batch
            for shard in manifest.splits[name].shards
            for batch in _open_shard(folder / shard.name, shard, manifest)
        ]
        self._columns: dict[str, list[Array]] = {}
        self.ids, self.texts = self.values("id"), self.values("text")
        self.raw_texts, self.languages = self.values("raw_text"), self.values("language")

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FeatureSplit, (self.folder.absolute(), self.manifest, self.name))

    def column(self, name: str, index: int) -> Array:
        """What an extractor made of an utterance: a read-only view of the memory map.

        Raises:
            KeyError: the set has no such column.
        """
        steps = self._rows(name)[index]
        return steps if self.manifest.columns[name].ragged else steps[0]

    def lengths(self, name: str) -> npt.NDArray[np.int64]:
        """Steps of a ragged column, int64 [n]; raises like `column`."""
        return np.array([len(steps) for steps in self._rows(name)], np.int64)

    def mel(self, index: int) -> Float32Array:
        """Natural-log mel, float32 [T, n_mels]; see `column`."""
        return self._rows("mel")[index]

    @cached_property
    def n_frames(self) -> npt.NDArray[np.int64]:
        return self.lengths("mel")

    def _rows(self, name: str) -> list[Array]:
        if name not in self._columns:
            column = self.manifest.columns[name]
            self._columns[name] = [row for batch in self._batches for row in views(batch, column)]
        return self._columns[name]

    def values(self, name: str) -> list[Any]:
        """What is known of each utterance beside its arrays.

        Args:
            name: id, text, raw_text, language, speaker; audio, the file in the corpus; start, the
                second of it at which the speech begins, and seconds, the length of the speech.
        """
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]


def views(batch: pa.RecordBatch, column: Column) -> Iterator[Array]:
    """Steps of each row of a batch, without a copy."""
    flat, offsets = column.unpack(batch.column(column.name))
    return (flat[first:end] for first, end in pairwise(offsets.tolist()))


def read_batches(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and record batches of an Arrow IPC file, memory-mapped.

    Closing the file frees its descriptor; the map lives as long as a batch does.

    Raises:
        OSError, pa.ArrowInvalid: the file is missing or not a complete Arrow file.
    """
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        if not all(map(_is_plain, reader.schema.types)):
            raise pa.ArrowInvalid("it holds types of other programs, which may run code")
        batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        return reader.schema, batches


def holds(schema: pa.Schema, column: Column) -> bool:
    """Whether a file has a column as it is declared."""
    return column.name in schema.names and schema.field(column.name).type.equals(column.arrow_type)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a type is Arrow's own, down to its parts: Ray Data's, for one, may hold a pickle."""
    parts = (kind.field(n).type for n in range(kind.num_fields))
    return not isinstance(kind, pa.BaseExtensionType) and all(map(_is_plain, parts))


def _check_size(file: Path, shard: ShardFacts) -> None:
    if not file.exists():
        raise UserError(f"{file}: missing; {AGAIN}")
    if (n_bytes := file.stat().st_size) != shard.n_bytes:
        says = f"has {n_bytes} bytes, the manifest says {shard.n_bytes}"
        raise UserError(f"{file}: {says}; {AGAIN}")


def _open_shard(file: Path, shard: ShardFacts, manifest: Manifest) -> list[pa.RecordBatch]:
    try:
        schema, batches = read_batches(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: cannot be read ({error}); {AGAIN}") from error
    columns = manifest.columns.values()
    fits = all(holds(schema, column) for column in columns)
    if not fits or (schema.metadata or {}).get(SHARD_FINGERPRINT) != shard.fingerprint.encode():
        raise UserError(f"{file}: does not belong to the manifest; {AGAIN}")
    return batches

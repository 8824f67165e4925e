"""Reading prepared features: memory-mapped, arrays without a copy."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
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
    _opened: dict[SplitName, FeatureSplit] = field(default_factory=dict, repr=False, compare=False)

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
        """The utterances of one split: train, val or test; opened once."""
        if name not in self._opened:
            self._opened[name] = FeatureSplit(self.folder, self.manifest, name)
        return self._opened[name]


class FeatureSplit:
    """Utterances of one split, in the corpus's order. Pickled as a path, so workers reopen it.

    Attributes:
        ids, texts, languages: one string an utterance; `texts` are normalised.
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
        self._steps: dict[str, Steps] = {}
        self.ids, self.texts, self.languages = map(self.values, ("id", "text", "language"))

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FeatureSplit, (self.folder.absolute(), self.manifest, self.name))

    def column(self, name: str, index: int) -> Array:
        """What an extractor made of an utterance: a read-only view of the memory map.

        Raises:
            KeyError: the set has no such column.
        """
        steps = self.steps(name)
        return steps[index] if steps.ragged else steps[index][0]

    def lengths(self, name: str) -> npt.NDArray[np.int64]:
        """Steps of a ragged column, int64 [n]; raises like `column`."""
        return self.steps(name).lengths()

    def mel(self, index: int) -> Float32Array:
        """Natural-log mel, float32 [T, n_mels]; see `column`."""
        return self.steps("mel")[index]

    @cached_property
    def n_frames(self) -> npt.NDArray[np.int64]:
        return self.lengths("mel")

    def steps(self, name: str) -> Steps:
        """What an extractor made of all utterances; raises like `column`."""
        if name not in self._steps:
            self._steps[name] = Steps(self._batches, self.manifest.columns[name])
        return self._steps[name]

    def values(self, name: str) -> list[Any]:
        """What is known of each utterance beside its arrays.

        Args:
            name: id, text, raw_text (as the corpus has it), language, speaker; audio, the file in
                the corpus; start, the second of it at which the speech begins, and seconds, the
                length of the speech.
        """
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]


def drawn(ids: Sequence[str], n: int) -> list[int]:
    """Indices of `n` of some ids in their order, always the same ones; a smaller draw is a part of
    a larger one."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    return sorted(order[:n])


class Steps(Sequence[Array]):
    """A column of each utterance, ``[T, *shape]``: views that are made when one is asked for, as
    an object for each of a million utterances takes seconds to make, and much memory."""

    def __init__(self, batches: Sequence[pa.RecordBatch], column: Column) -> None:
        self.ragged = column.ragged
        self._parts = [column.unpack(batch.column(column.name)) for batch in batches]
        self._ends = list(accumulate(batch.num_rows for batch in batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        part = bisect_right(self._ends, index)
        flat, offsets = self._parts[part]
        first, end = offsets[index - self._ends[part] - 1 :][:2]
        return flat[first:end]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps of each utterance, int64 [n]."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(n) for _, n in self._parts)])


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

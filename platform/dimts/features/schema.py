"""What an extractor declares: the columns that it fills, and what they depend on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from dimts.core.config import Config

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Extract = Callable[[npt.NDArray[np.float32], int], Arrays]
"""Arrays by the name of their column, from a wave, float32 [n_samples], and its rate in Hz."""


class Column(Config):
    """One array an utterance.

    With `statistics`, the manifest holds mean and standard deviation of the steps of the train
    split; for floats of one axis beside time.
    """

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")  # of the column in the Arrow files
    dtype: Literal["float32", "float64", "int16", "int32", "int64", "uint8"]
    shape: tuple[int, ...] = ()  # of a step in time, or of an array that does not depend on time
    ragged: bool = True  # the array's first axis is time, [T, *shape]
    statistics: bool = False

    @property
    def arrow_type(self) -> pa.DataType:
        """A list of steps; an array without time is one step."""
        step = pa.from_numpy_dtype(np.dtype(self.dtype))
        return pa.large_list(pa.list_(step, math.prod(self.shape)) if self.shape else step)

    def steps(self, array: Array) -> Array:
        """An extractor's array as steps ``[T, *shape]``.

        Raises:
            ValueError: it is not what was declared, or of no length.
        """
        steps = array if self.ragged else array[None]
        if steps.dtype != self.dtype or steps.shape[1:] != self.shape or not len(steps):
            raise ValueError(f"{self.name}: {array.dtype} {list(array.shape)} was not declared")
        return steps

    def pack(self, rows: Sequence[Array | tuple[()]]) -> pa.LargeListArray:
        """Steps of several utterances as an Arrow array; those of a refused one have no length.

        A reader slices the one flat buffer, which takes microseconds; see `unpack`.
        """
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        nothing = np.empty((0, *self.shape), self.dtype)
        flat = np.concatenate([nothing, *(steps for steps in rows if len(steps))])
        values = pa.array(flat.ravel())
        if self.shape:
            values = pa.FixedSizeListArray.from_arrays(values, math.prod(self.shape))
        return pa.LargeListArray.from_arrays(pa.array(offsets), values)

    def unpack(self, packed: pa.LargeListArray) -> tuple[Array, npt.NDArray[np.int64]]:
        """All steps ``[n_steps, *shape]``, a view, and where each row starts, [n_rows + 1]."""
        # Straight from the buffers: Array.to_numpy would import pandas, a third of a second.
        values = packed.values
        buffer = (values.values if self.shape else values).buffers()[1]
        flat = np.frombuffer(buffer, self.dtype)[: len(values) * math.prod(self.shape)]
        offsets = np.frombuffer(packed.buffers()[1], np.int64)[: len(packed) + 1]
        return flat.reshape(len(values), *self.shape), offsets


class Resources(NamedTuple):
    """What one worker needs."""

    cpus: float = 1
    gpus: float = 0  # share of one; none is waited for where a cluster has none
    actor: bool = False  # it has to stay, as it holds a model that takes long to load


class Extractor(Hashable, Protocol):
    """Makes columns from the trimmed wave of an utterance; is sent to workers, so it is small.

    Attributes:
        name: its key in the manifest.
        version: to be raised when the same wave and settings would give other arrays.
        settings: all else that the arrays depend on, such as the hash of a model's weights.
        sample_rate: in Hz, of the waves that it is given.
        columns: what it gives; names are unique among the extractors of a set.
        unit: what the steps of its first column are: frames, tokens, ...
        resources: of a worker.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def settings(self) -> Config: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def unit(self) -> str: ...
    @property
    def resources(self) -> Resources: ...

    def open(self) -> Extract:
        """Load what is needed, once in a process.

        Raises:
            UserError: something that the user was to provide is missing.
        """
        ...


class PlainExtractor(ABC):
    """An `Extractor` that loads nothing, of waves at the rate of its settings."""

    settings: Any
    resources = Resources()

    @property
    def sample_rate(self) -> int:
        return int(self.settings.sample_rate)

    def open(self) -> Extract:
        return self.extract

    @abstractmethod
    def extract(self, wave: npt.NDArray[np.float32], sample_rate: int) -> Arrays:
        """Its columns; see `Extract`."""

"""`manifest.json`: what a folder of features holds and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from dimts.audio.mel import MelConfig
from dimts.core.config import Config, first_difference
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, parse_json
from dimts.features.schema import Column
from dimts.storage.files import read_bounded
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.csv"
SUMMARY = "summary.txt"

AGAIN = "run dimts prepare again"

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

SHARD_NAME = rf"^({'|'.join(SPLITS)})-[0-9]{{5,}}\.arrow$"
"""A plain file's name: the manifest of others must not lead out of its folder."""


class ShardFacts(Config):
    """One Arrow file."""

    name: str = Field(pattern=SHARD_NAME)
    n_utterances: int
    n_bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str  # of the rows it was made for; stands in the file itself, too


class SplitFacts(Config):
    """One split."""

    n_utterances: int
    hours: float  # of speech, the silence around it trimmed
    lengths: dict[str, int]  # steps of each ragged column
    shards: tuple[ShardFacts, ...]

    @property
    def n_frames(self) -> int:
        """Of the mel."""
        return self.lengths["mel"]


class Statistics(Config):
    """Of each value of a step of a column, over the train split."""

    mean: tuple[float, ...]
    std: tuple[float, ...]  # never so small that dividing by it does harm


class ExtractorFacts(Config):
    """How some columns were made, see `Extractor`."""

    version: int
    settings: dict[str, Any]
    unit: str
    columns: tuple[Column, ...]
    statistics: dict[str, Statistics] = Field(default={})  # by the column's name


class CorpusFacts(Config):
    """Where the utterances come from.

    Audio paths in the shards are relative to `path`, or absolute in an audio folder outside it.
    """

    path: AnyPath
    n_rows: int
    languages: tuple[str, ...]
    speakers: tuple[str, ...]


class Manifest(Config):
    """Facts of one folder of features."""

    format_version: Literal[2] = 2
    dimts_version: str
    fingerprint: str  # 16 hex digits over utterances, splits, extractors' and text settings
    extractors: dict[str, ExtractorFacts]  # by name, the one that trims first
    text: TextConfig
    corpus: CorpusFacts
    splits: dict[SplitName, SplitFacts]
    quarantined: dict[str, int] = Field(default={})  # reason -> number of rows

    @property
    def columns(self) -> dict[str, Column]:
        """What the extractors have made, by name."""
        return {c.name: c for facts in self.extractors.values() for c in facts.columns}

    @property
    def mel(self) -> MelConfig:
        """What the mel is made of.

        Raises:
            UserError: there is no mel.
        """
        if "mel" not in self.extractors:
            raise UserError(
                f"the features of {self.corpus.path} have no mel; prepare them with a voice whose "
                "model learns from mels"
            )
        return MelConfig.model_validate(self.extractors["mel"].settings)

    @property
    def mel_mean(self) -> tuple[float, ...]:
        """[n_mels], of natural-log mel over the train split's frames."""
        return self.extractors["mel"].statistics["mel"].mean

    @property
    def mel_std(self) -> tuple[float, ...]:
        """[n_mels], likewise."""
        return self.extractors["mel"].statistics["mel"].std

    @property
    def shards(self) -> dict[str, ShardFacts]:
        """Of all splits, by name."""
        return {shard.name: shard for split in self.splits.values() for shard in split.shards}

    @property
    def n_utterances(self) -> int:
        """Of all splits."""
        return sum(split.n_utterances for split in self.splits.values())

    @property
    def hours(self) -> float:
        """Of all splits."""
        return sum(split.hours for split in self.splits.values())


def read_manifest(folder: AnyPath) -> Manifest:
    """The manifest of a folder of features; raises like `manifest_bytes` and `parse_manifest`."""
    return parse_manifest(manifest_bytes(folder), folder / MANIFEST)


def manifest_bytes(folder: AnyPath) -> bytes:
    """What the file of the manifest holds.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    file = folder / MANIFEST
    try:
        return read_bounded(file, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir():
            raise UserError(f"{file}: missing, the features are not complete; {AGAIN}") from None
        raise UserError(f"{folder}: no such folder of features; run dimts prepare") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {AGAIN}") from error


def parse_manifest(data: bytes, file: AnyPath) -> Manifest:
    """A manifest from what its file holds.

    Raises:
        UserError: it is none, or another version of dimts wrote it; names `file`.
    """
    try:
        return Manifest.model_validate(parse_json(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(f"{file}: {key}: {first['msg']}; {AGAIN}") from error
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}); {AGAIN}") from error


def check_prepared_with(
    folder: AnyPath, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Refuse features that were made with other settings than ours, by sections.

    Raises:
        UserError: names the first difference.
    """
    if found := first_difference(ours, theirs):
        key, asked, there = found
        raise UserError(
            f"{folder}: was prepared with {key}={there}, the configuration says {asked}; run "
            "dimts prepare again or change it"
        )


def mel_moments(
    manifests: Sequence[Manifest],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean, and mean of the squares, of the training frames of all sets together, [n_mels]."""
    frames = [manifest.splits["train"].n_frames for manifest in manifests]
    means = np.array([manifest.mel_mean for manifest in manifests])
    squares = np.square([manifest.mel_std for manifest in manifests]) + means**2
    mean, square = (np.average(moment, axis=0, weights=frames) for moment in (means, squares))
    return mean, square

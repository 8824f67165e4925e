"""`manifest.json`: what a folder of features holds and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from dimts.audio.mel import MelConfig
from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, parse_json, read_bytes
from dimts.storage.paths import AnyPath
from dimts.text.normaliser import TextConfig

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.csv"
SUMMARY = "summary.txt"
FORMAT_VERSION = 1

AGAIN = "run dimts prepare again"

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

SHARD_NAME = rf"^({'|'.join(SPLITS)})-[0-9]{{5,}}\.arrow$"
"""A plain file's name: the manifest of others must not lead out of its folder."""


class ShardFacts(Config):
    """One Arrow file.

    `fingerprint` is of the rows it was made for and stands in the file itself too.
    """

    name: str = Field(pattern=SHARD_NAME)
    n_utterances: int
    n_bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str


class SplitFacts(Config):
    """One split; `hours` are of speech, the silence around it trimmed."""

    n_utterances: int
    n_frames: int
    hours: float
    shards: tuple[ShardFacts, ...]


class CorpusFacts(Config):
    """Where the utterances come from; audio paths in the shards are relative to `path`."""

    path: AnyPath
    n_rows: int
    languages: tuple[str, ...]
    speakers: tuple[str, ...]


class Manifest(Config):
    """Facts of one folder of features.

    Attributes:
        fingerprint: 16 hex digits over utterances, splits, mel and text settings.
        mel_mean: [n_mels], of natural-log mel over the train split's frames.
        mel_std: [n_mels], likewise, and never so small that dividing by it does harm.
        quarantined: reason -> number of rows.
    """

    format_version: int = FORMAT_VERSION
    dimts_version: str
    fingerprint: str
    mel: MelConfig
    text: TextConfig
    corpus: CorpusFacts
    splits: dict[SplitName, SplitFacts]
    mel_mean: tuple[float, ...]
    mel_std: tuple[float, ...]
    quarantined: dict[str, int] = Field(default={})

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be {', '.join(SPLITS)}")
        if not len(self.mel_mean) == len(self.mel_std) == self.mel.n_mels:
            raise ValueError("mel_mean and mel_std need one value for each mel bin")
        return self

    @property
    def n_utterances(self) -> int:
        """Of all splits."""
        return sum(split.n_utterances for split in self.splits.values())

    @property
    def hours(self) -> float:
        """Of all splits."""
        return sum(split.hours for split in self.splits.values())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of features.

    Raises:
        UserError: there is none, or another version of dimts wrote it.
    """
    file = folder / MANIFEST
    try:
        data = read_bytes(file, MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir():
            raise UserError(f"{file}: missing, the features are not complete; {AGAIN}") from None
        raise UserError(f"{folder}: no such folder of features; run dimts prepare") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); {AGAIN}") from error
    return parse_manifest(data, file)


def parse_manifest(data: bytes, file: AnyPath) -> Manifest:
    """A manifest from what its file holds.

    Raises:
        UserError: it is none, or another version of dimts wrote it; names `file`.
    """
    try:
        values = parse_json(data)
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}); {AGAIN}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{file}: format version {version}, this dimts reads version {FORMAT_VERSION}; {AGAIN}"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: {key}: {first['msg']}; {AGAIN}") from error

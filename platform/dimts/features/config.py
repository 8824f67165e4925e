"""Settings of the sections `corpus` and `prepare`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dimts.audio.cleaning import CleaningConfig
from dimts.audio.trim import TrimConfig
from dimts.core.config import Config
from dimts.storage.paths import AnyPath
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig

Value = Annotated[str, Field(coerce_numbers_to_str=True)]  # speakers are often numbers
ColumnName = Annotated[int, Field(ge=1)] | Annotated[str, Field(min_length=1)]


class ColumnsConfig(Config):
    """Which column of a table holds what: its name in the header, or its number from 1."""

    audio: ColumnName | None = Field(None, description="name of the recording")
    text: ColumnName | None = Field(None, description="what is said")
    speaker: ColumnName | None = Field(None, description="who says it")
    language: ColumnName | None = Field(None, description="in which language")
    start: ColumnName | None = Field(None, description="seconds into the recording")
    end: ColumnName | None = Field(None, description="seconds into the recording")

    @property
    def given(self) -> dict[str, int | str]:
        """Those that are set, by what they hold."""
        return self.model_dump(exclude_none=True)


class CorpusConfig(Config):
    """Where the recordings and their texts are."""

    path: AnyPath = Field(description="folder of the corpus, here or in object storage")
    reader: str = Field("auto", min_length=1, description="layout; auto: the one that it has")
    language: str | None = Field(
        None, min_length=1, description="what is spoken; that of text.language if not given"
    )
    languages: tuple[str, ...] = Field(
        (), description="codes of others that rows may be in, as a column says of each"
    )
    speaker: str = Field("speaker", min_length=1, description="who speaks, if no column says it")
    tables: tuple[str, ...] = Field(
        (), description="tables or manifests to read, relative to path, with * and **"
    )
    audio_folder: str | None = Field(
        None, min_length=1, description="of the recordings; may lie outside path"
    )
    columns: ColumnsConfig = ColumnsConfig()
    delimiter: str | None = Field(None, description="between columns: one sign, or tab")
    header: bool | None = Field(None, description="whether the first line names the columns")
    quoted: bool | None = Field(None, description='whether a "quoted" cell may hold delimiters')
    encoding: str = Field("utf-8", description="of tables, such as latin-1")
    only: dict[str, tuple[Value, ...]] = Field(
        default={}, description="column: values; other rows are left out"
    )
    min_minutes: float = Field(0.0, ge=0, description="of speech; speakers with less are left out")

    @field_validator("delimiter")
    @classmethod
    def _one_sign(cls, delimiter: str | None) -> str | None:
        if delimiter == "tab":
            return "\t"
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"\0'):
            raise ValueError("must be one sign, or tab")
        return delimiter

    @field_validator("encoding")
    @classmethod
    def _extends_ascii(cls, encoding: str) -> str:
        try:
            same = '\n|,;\t"'.encode(encoding) == b'\n|,;\t"'
        except LookupError:
            same = False
        if not same:
            raise ValueError("must be utf-8 or an encoding of single bytes, such as latin-1")
        return encoding


def check_language(corpus: CorpusConfig, text: TextConfig) -> None:
    """Refuse a corpus of another language than its texts are read in.

    Raises:
        ValueError: they differ.
    """
    code = load_language(text.language).code
    if corpus.language not in (None, code):
        raise ValueError(
            f"corpus.language ({corpus.language}) must be {code}, the code of text.language's "
            "file; it may be left out"
        )


class PrepareConfig(Config):
    """How a corpus becomes features, and where they go."""

    features: AnyPath = Field(description="folder the features go to, here or in object storage")
    trim: TrimConfig = TrimConfig()
    cleaning: CleaningConfig = CleaningConfig()
    min_seconds: float = Field(0.3, gt=0, description="shortest speech, silence trimmed")
    max_seconds: float = Field(20.0, gt=0, description="longest recording, silence included")
    min_frames_per_token: float = Field(
        2.0, ge=1, description="a text with fewer frames for each token cannot be aligned"
    )
    max_seconds_per_token: float = Field(
        1.0, gt=0, description="a recording that is longer for its text says something else"
    )
    max_misfit: float | None = Field(
        None,
        gt=0,
        description="a text that fits its recording worse is left out; see dimts doctor",
    )
    val_share: float = Field(0.05, ge=0, lt=0.5, description="share of the utterances")
    test_share: float = Field(0.05, ge=0, lt=0.5, description="share of the utterances")
    shard_mb: float = Field(128, gt=0, description="mel in one Arrow file, MB at most")
    engine: Literal["auto", "ray", "pool", "local"] = Field(
        "auto",
        description="local: in this process; pool: processes of this machine; auto: Ray if it is "
        "running, else the quicker of the two",
    )
    workers: int | None = Field(None, ge=1, description="processes; one a CPU if not given")
    # Between two tasks a worker of Ray Data waited 50 ms or more (two cores of a Xeon), and 32
    # utterances took it 80 ms: two workers did the work of one. 256 take 0.6 s.
    chunk: int = Field(
        256, ge=1, description="utterances in one task at most, and lost by a kill: half a second"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_seconds >= self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} must be below max_seconds {self.max_seconds:g}"
            )
        if self.engine == "local" and self.workers is not None:
            raise ValueError("workers has no effect with engine: local")
        return self

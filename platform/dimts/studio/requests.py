"""What a browser asks for, typed; what does not fit is a `UserError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.evaluation.listening import Choice
from dimts.evaluation.mushra import Points

Asked = TypeVar("Asked", bound=Config)


class Speech(Config):
    """A text to be spoken; an empty language or voice is the model's own."""

    model: str
    text: str = Field(min_length=1)
    language: str = ""
    voice: str = ""
    speed: float = 1.0
    pitch: float = 1.0


class VoiceAsked(Config):
    """A model, of which languages and voices are asked for."""

    model: str


class Listener(Config):
    """Who listens."""

    listener: str = Field(min_length=1, max_length=80)


class Judgement(Listener):
    """The answer to the listener's next trial, which is the one with this number."""

    trial: int
    choice: Choice


class Rated(Listener):
    """The points of all clips of the listener's next trial, in the order in which they stand."""

    trial: int
    points: tuple[Points, ...]


class Clip(Listener):
    """One of the waves of a listener's trial."""

    trial: int
    side: int = Field(ge=0)


class Recording(Config):
    """A recorded sentence: a WAV file in base64."""

    sentence: str
    wav: str


class Rows(Config):
    """Rows of the corpus from a position on, of those that hold a word."""

    start: int = Field(0, ge=0)
    word: str = ""


class Row(Config):
    """A row of the corpus by its position."""

    index: int = Field(ge=0)


class Mark(Row):
    """Whether a row is bad."""

    bad: bool


def parse(kind: type[Asked], values: Mapping[str, Any]) -> Asked:
    """The request that values make.

    Raises:
        UserError: they make none.
    """
    try:
        return kind.model_validate(values, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

"""Answers of listeners: lines of a file that are added, none is changed; and what is asked next."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from pydantic import ValidationError

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.core.untrusted import read_text

A = TypeVar("A", bound=Config)
T = TypeVar("T", bound=Hashable)


class Answered(Protocol):
    """An answer: whose, and to which trial."""

    @property
    def listener(self) -> str:
        """Their name."""

    @property
    def trial(self) -> Hashable:
        """What was heard."""


def draws_of(listener: str) -> np.random.Generator:
    """Draws that follow from a listener's name alone, so that a test can be continued."""
    seed = int.from_bytes(hashlib.sha256(listener.encode()).digest()[:8], "big")
    return np.random.default_rng(seed)


def next_trial(trials: Sequence[T], answers: Iterable[Answered], listener: str) -> T | None:
    """The first trial that the listener has not answered; None at the end."""
    done = {answer.trial for answer in answers if answer.listener == listener}
    return next((trial for trial in trials if trial not in done), None)


def read_answers(file: Path, kind: type[A]) -> list[A]:
    """Answers in the order in which they came; none if there is no file.

    A last line without an end is one that a crash has cut off; it is not counted.

    Raises:
        UserError: the file cannot be read, or a line is no answer of this kind.
    """
    text = read_text(file) if file.exists() else ""
    answers = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            answers.append(kind.model_validate_json(line))
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UserError(f"{file}:{number}: no answer ({what}); remove the line") from error
    return answers


def append_answer(file: Path, answer: Config) -> None:
    """Add a line, which is on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(answer.model_dump(), ensure_ascii=False) + "\n"
    with file.open("a+b") as out:
        if (size := out.seek(0, os.SEEK_END)) and os.pread(out.fileno(), 1, size - 1) != b"\n":
            whole = os.pread(out.fileno(), size, 0)
            out.truncate(whole.rfind(b"\n") + 1)  # a line that was cut off
        out.write(line.encode())
        out.flush()
        os.fsync(out.fileno())

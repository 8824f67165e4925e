"""What all listening tests of the studio share: trials without names, answers on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.evaluation.answers import Answered, append_answer, next_trial
from dimts.studio.requests import Clip, Listener, parse
from dimts.studio.voices import Spoken
from dimts.tracking.config import TrackingConfig
from dimts.tracking.listeners import NEUTRAL, comparison_tags
from dimts.tracking.registry import Registry

MODELS = "models:/"


class Sentence(NamedTuple):
    """What is to be spoken and in which language; and its recording in the corpus: the file there,
    and seconds at which the speech begins and ends in it."""

    text: str
    language: str
    audio: str = ""
    start: float = 0.0
    end: float = 0.0


T = TypeVar("T", bound=tuple[Any, ...])


class BlindTest(ABC, Generic[T]):
    """Trials of clips that have no names, for any number of listeners.

    Args:
        sentences: held out, by id.
        file: of the answers; an answer is added, none is changed.
        speak: (id of a sentence, system) -> what is heard.
    """

    def __init__(
        self,
        sentences: Mapping[str, Sentence],
        file: Path,
        speak: Callable[[str, str], Spoken],
    ) -> None:
        self._sentences, self._file = sentences, file
        self._spoken = lru_cache(256)(speak)
        self._writes = Lock()

    @abstractmethod
    def plan(self, listener: str) -> list[T]:
        """All trials of a listener; the first field of each is its sentence."""

    @abstractmethod
    def systems(self, trial: T) -> Sequence[str]:
        """Who is heard, in the order of the clips."""

    @abstractmethod
    def answers(self) -> Sequence[Answered]:
        """Those on disk."""

    def next(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The listener's next trial: its number, of how many, the text and the number of clips; no
        text at the end."""
        name = parse(Listener, values).listener.strip()
        trials = self.plan(name)
        trial = next_trial(trials, self.answers(), name)
        if trial is None:
            return {"trial": len(trials), "of": len(trials), "text": None, "clips": 0}
        text, clips = self._sentences[trial[0]].text, len(self.systems(trial))
        return {"trial": trials.index(trial), "of": len(trials), "text": text, "clips": clips}

    def clip(self, values: Mapping[str, Any]) -> bytes:
        """One clip of a trial as a WAV file."""
        asked = parse(Clip, values)
        trial = self.trial(asked.listener, asked.trial)
        systems = self.systems(trial)
        if asked.side >= len(systems):
            raise UserError(f"clip {asked.side}: there are {len(systems)}")
        return self._spoken(trial[0], systems[asked.side]).levelled().wav()

    def trial(self, listener: str, number: int) -> T:
        """A trial of a listener by its number."""
        trials = self.plan(listener.strip())
        if not 0 <= number < len(trials):
            raise UserError(f"trial {number}: there are {len(trials)}")
        return trials[number]

    def keep(self, listener: str, trial: T, answer: Config) -> dict[str, Any]:
        """Add an answer if it is to the listener's next trial; the one after it, as of `next`."""
        with self._writes:
            if trial == next_trial(self.plan(listener), self.answers(), listener):
                append_answer(self._file, answer)
        return self.next({"listener": listener})


def log_tags(tracking: TrackingConfig, tags: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Put tags on those systems that are registered versions; which ones that are.

    Raises:
        UserError: there are none, or MLflow cannot be reached.
    """
    logged = []
    for system, own in tags.items():
        if (version := registered(system)) and own:
            name, _, number = version.rpartition("/")
            registry = Registry(tracking, name)
            registry.set_tags(registry.version(number), own)
            logged.append(system)
    if not logged:
        raise UserError("nothing to log: compare registered voices, --model models:/NAME@ALIAS")
    return {"logged": logged}


def compared(
    tags: Mapping[str, dict[str, str]], measure: str, gap: Mapping[str, Any], value: float
) -> None:
    """Add a comparison of two systems to the tags of both: each sees it from its own side.

    Args:
        tags: of each system.
        measure: one of `NEUTRAL`; `value` is that of the first system.
        gap: with `one` and `other`, the systems, `low` and `high`, and `listeners`.
    """
    both, n = 2 * NEUTRAL[measure], gap["listeners"]
    for name, other, of in (
        (gap["one"], gap["other"], (value, gap["low"], gap["high"])),
        (gap["other"], gap["one"], (both - value, both - gap["high"], both - gap["low"])),
    ):
        tags[name].update(comparison_tags(registered(other) or other, measure, *of, n))


def registered(system: str) -> str | None:
    """NAME/NUMBER of a registered version; None of other systems."""
    version = system.removeprefix(MODELS)
    return version if system.startswith(MODELS) and "/" in version else None

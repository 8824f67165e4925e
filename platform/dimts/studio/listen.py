"""The page Listen: trials without names, answers on disk, and the result for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from dimts.core.errors import UserError
from dimts.evaluation.listening import (
    Answer,
    Trial,
    append_answer,
    next_trial,
    one_sided,
    plan,
    preference,
    read_answers,
)
from dimts.studio.requests import Clip, Judgement, Listener, parse
from dimts.studio.voices import Spoken, Voices
from dimts.tracking.config import TrackingConfig
from dimts.tracking.registry import Registry


class Sentence(NamedTuple):
    """What is to be spoken, and in which language."""

    text: str
    language: str


class ListeningTest:
    """A comparison of all voices of the studio, two at a time.

    Args:
        voices: compared.
        sentences: held out, by id.
        file: of the answers; an answer is added, none is changed.
        n_sentences: that each listener hears of each pair of voices.
    """

    def __init__(
        self, voices: Voices, sentences: Mapping[str, Sentence], file: Path, n_sentences: int
    ) -> None:
        if len(voices.names) < 2:
            raise UserError("to compare voices, name two or more by --model")
        self._voices, self._sentences, self._file = voices, sentences, file
        self._n_sentences = n_sentences
        self._spoken = lru_cache(256)(self._speak)
        self._writes = Lock()

    def next(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The listener's next trial: its number, of how many, and the text; no text at the end."""
        name = parse(Listener, values).listener.strip()
        trials = self._plan(name)
        trial = next_trial(trials, read_answers(self._file), name)
        number = len(trials) if trial is None else trials.index(trial)
        text = None if trial is None else self._sentences[trial.sentence].text
        return {"trial": number, "of": len(trials), "text": text}

    def clip(self, values: Mapping[str, Any]) -> bytes:
        """One side of a trial as a WAV file."""
        asked = parse(Clip, values)
        trial = self._trial(asked.listener, asked.trial)
        return self._spoken(trial.sentence, trial[1 + asked.side]).levelled().wav()

    def answer(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep an answer; the next trial, as of `next`."""
        asked = parse(Judgement, values)
        name = asked.listener.strip()
        trial = self._trial(name, asked.trial)
        with self._writes:
            if trial == next_trial(self._plan(name), read_answers(self._file), name):
                answer = Answer(listener=name, choice=asked.choice, **trial._asdict())
                append_answer(self._file, answer)
        return self.next({"listener": name})

    def result(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The preference of each pair, and who was left out."""
        answers = read_answers(self._file)
        pairs = combinations(self._voices.names, 2)
        found = [p for one, other in pairs if (p := preference(answers, one, other))]
        return {"pairs": [p._asdict() for p in found], "left_out": one_sided(answers)}

    def log(self, values: Mapping[str, Any], tracking: TrackingConfig) -> dict[str, Any]:
        """Put the result on the registered versions that were compared, as tags.

        Raises:
            UserError: none is registered, there is no answer, or MLflow cannot be reached.
        """
        logged = []
        for found in self.result(values)["pairs"]:
            for name, share, low, high in (
                (found["one"], found["share"], found["low"], found["high"]),
                (found["other"], 1 - found["share"], 1 - found["high"], 1 - found["low"]),
            ):
                model, _, number = name.removeprefix("models:/").rpartition("/")
                if not name.startswith("models:/") or not model:
                    continue
                registry = Registry(tracking, model)
                other = found["other"] if name == found["one"] else found["one"]
                tags = {
                    "listeners.against": other,
                    "listeners.preferred": f"{share:.3f}",
                    "listeners.interval": f"{low:.3f} to {high:.3f}",
                    "listeners.p_value": f"{found['p_value']:.3g}",
                    "listeners.count": str(found["listeners"]),
                }
                registry.set_tags(registry.version(number), tags)
                logged.append(name)
        if not logged:
            raise UserError("nothing to log: compare registered voices, --model models:/NAME@ALIAS")
        return {"logged": logged}

    def _plan(self, name: str) -> list[Trial]:
        return plan(name, list(self._sentences), self._voices.names, self._n_sentences)

    def _trial(self, name: str, number: int) -> Trial:
        trials = self._plan(name.strip())
        if not 0 <= number < len(trials):
            raise UserError(f"trial {number}: there are {len(trials)}")
        return trials[number]

    def _speak(self, sentence: str, system: str) -> Spoken:
        text, language = self._sentences[sentence]
        return self._voices.speak(system, text, language=language)

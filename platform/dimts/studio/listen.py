"""The page Listen: two voices at a time, of which one is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from dimts.core.errors import UserError
from dimts.evaluation.answers import read_answers
from dimts.evaluation.bradley_terry import strengths
from dimts.evaluation.listening import Answer, Trial, one_sided, plan, preference
from dimts.studio.blind_test import BlindTest, Sentence, compared, log_tags
from dimts.studio.requests import Judgement, parse
from dimts.studio.voices import Voices
from dimts.tracking.config import TrackingConfig


class ListeningTest(BlindTest[Trial]):
    """A comparison of all voices of the studio, two at a time.

    Args:
        voices: compared.
        sentences, file: see `BlindTest`.
        n_sentences: that each listener hears of each pair of voices.
    """

    def __init__(
        self, voices: Voices, sentences: Mapping[str, Sentence], file: Path, n_sentences: int
    ) -> None:
        if len(voices.names) < 2:
            raise UserError("to compare voices, name two or more by --model")
        self._names, self._n_sentences = voices.names, n_sentences
        super().__init__(
            sentences,
            file,
            lambda row, name: voices.speak(
                name, sentences[row].text, language=sentences[row].language
            ),
        )

    def plan(self, listener: str) -> list[Trial]:
        return plan(listener, list(self._sentences), self._names, self._n_sentences)

    def systems(self, trial: Trial) -> Sequence[str]:
        return trial[1:]

    def answers(self) -> Sequence[Answer]:
        return read_answers(self._file, Answer)

    def answer(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep an answer; the next trial, as of `next`."""
        asked = parse(Judgement, values)
        name = asked.listener.strip()
        trial = self.trial(name, asked.trial)
        return self.keep(name, trial, Answer(listener=name, choice=asked.choice, **trial._asdict()))

    def result(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The preference of each pair, of more than two voices their strengths, and who was left
        out."""
        answers = self.answers()
        pairs = combinations(self._names, 2)
        found = [p._asdict() for one, other in pairs if (p := preference(answers, one, other))]
        ranking = strengths(answers, self._names) if len(self._names) > 2 else []
        return {
            "pairs": found,
            "strengths": [strength._asdict() for strength in ranking],
            "left_out": one_sided(answers),
        }

    def log(self, values: Mapping[str, Any], tracking: TrackingConfig) -> dict[str, Any]:
        """Put the result on the registered versions that were compared, as tags.

        Raises:
            UserError: none is registered, there is no answer, or MLflow cannot be reached.
        """
        result = self.result(values)
        tags: dict[str, dict[str, str]] = {name: {} for name in self._names}
        for pair in result["pairs"]:
            compared(tags, "preferred", pair, pair["share"])
        for strength in result["strengths"]:
            interval = f"{strength['low']:.3f} to {strength['high']:.3f}"
            tags[strength["system"]]["listeners.strength"] = (
                f"{strength['share']:.3f} ({interval}) of {len(self._names)} voices"
            )
        return log_tags(tracking, tags)

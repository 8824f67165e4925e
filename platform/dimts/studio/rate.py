"""The page Rate: all voices side by side, with the recording hidden among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from dimts.core.errors import UserError
from dimts.evaluation.answers import read_answers
from dimts.evaluation.mushra import REFERENCE, Rating, Screen, plan, rated, reference_missed
from dimts.studio.blind_test import BlindTest, Sentence, compared, log_tags
from dimts.studio.requests import Rated, parse
from dimts.studio.voices import Spoken, Voices
from dimts.tracking.config import TrackingConfig


class RatingTest(BlindTest[Screen]):
    """Points for all voices of the studio, and for the recording.

    Args:
        voices: rated.
        sentences, file: see `BlindTest`.
        n_sentences: that each listener rates.
        recording: the reference of a sentence; None: there are no recordings.
    """

    def __init__(
        self,
        voices: Voices,
        sentences: Mapping[str, Sentence],
        file: Path,
        n_sentences: int,
        recording: Callable[[Sentence], Spoken] | None,
    ) -> None:
        self._names = [*voices.names, *[REFERENCE] * (recording is not None)]
        self._n_sentences = n_sentences

        def speak(row: str, name: str) -> Spoken:
            said = sentences[row]
            if name == REFERENCE and recording:
                return recording(said)
            return voices.speak(name, said.text, language=said.language)

        super().__init__(sentences, file, speak)

    def plan(self, listener: str) -> list[Screen]:
        return plan(listener, list(self._sentences), self._names, self._n_sentences)

    def systems(self, trial: Screen) -> Sequence[str]:
        return trial.systems

    def answers(self) -> Sequence[Rating]:
        return read_answers(self._file, Rating)

    def rate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the points of a trial; the next one, as of `next`."""
        asked = parse(Rated, values)
        name = asked.listener.strip()
        trial = self.trial(name, asked.trial)
        if len(asked.points) != len(trial.systems):
            raise UserError(f"points: {len(asked.points)} for {len(trial.systems)} clips")
        return self.keep(name, trial, Rating(listener=name, points=asked.points, **trial._asdict()))

    def next(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """As of `BlindTest`; and whether a recording is among the clips."""
        return {**super().next(values), "reference": REFERENCE in self._names}

    def result(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Mean points, best first; the difference of each pair, and who was left out."""
        ratings = self.answers()
        means = [(name, mean) for name in self._names if (mean := rated(ratings, name))]
        means.sort(key=lambda of: -of[1].points)
        pairs = combinations([name for name, _ in means], 2)
        gaps = [(one, other, rated(ratings, one, other)) for one, other in pairs]
        return {
            "means": [{"system": name, **mean._asdict()} for name, mean in means],
            "differences": [
                {"one": one, "other": other, **gap._asdict()} for one, other, gap in gaps if gap
            ],
            "left_out": reference_missed(ratings),
        }

    def log(self, values: Mapping[str, Any], tracking: TrackingConfig) -> dict[str, Any]:
        """Put the result on the registered versions that were rated, as tags.

        Raises:
            UserError: none is registered, there are no ratings, or MLflow cannot be reached.
        """
        result = self.result(values)
        tags = {
            m["system"]: {
                "listeners.points": f"{m['points']:.1f} ({m['low']:.1f} to {m['high']:.1f})"
            }
            for m in result["means"]
        }
        for gap in result["differences"]:
            compared(tags, "points", gap, gap["points"])
        return log_tags(tracking, tags)

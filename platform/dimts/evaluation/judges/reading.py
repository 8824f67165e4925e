"""Whether a voice says each letter as the recordings do, by a recogniser that was trained on them.

It finds what is skipped, repeated or garbled. It says nothing of what people understand: it has
learned how this corpus sounds, and knows its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dimts.core.errors import UserError
from dimts.evaluation.judges.judge import Clip, Judge, Scores, resampled
from dimts.evaluation.judges.metrics import MISREAD, WEIGHTS
from dimts.families.protocol import Reads
from dimts.families.registry import load_speaker


class Reading(Judge):
    """Letters that `judges.reader` reads otherwise than they are written.

    Raises:
        UserError: there is no such bundle, or it is of a family that does not read.
    """

    name = "reading"

    def load(self) -> None:
        reader = load_speaker(Path(self.config.reader), str(self.device))
        if not isinstance(reader, Reads):
            raise UserError(f"judges.reader={self.config.reader}: is of no recogniser")
        self._reader = reader

    def objection(self, clips: Sequence[Clip]) -> str:
        unknown = {clip.language for clip in clips} - {*self._reader.languages}
        names = ", ".join(code or "an unnamed language" for code in sorted(unknown))
        return f"{self.name}: {self.config.reader} does not read {names}" if names else ""

    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        return [self._compare(clip) for clip in clips]

    def _compare(self, clip: Clip) -> Scores:
        text = self._reader.normalise(clip.text)
        heard = self._reader.read(resampled(clip.wave, clip.sample_rate, self._reader.sample_rate))
        return {
            MISREAD.name: self._reader.misread(heard, text),
            WEIGHTS[MISREAD.name]: float(len(text)),
        }

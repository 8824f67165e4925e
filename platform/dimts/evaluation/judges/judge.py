"""What a judge is: clips in, a few numbers a clip out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import soxr

from dimts.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from dimts.evaluation.judges.config import JudgesConfig

Float32Array = npt.NDArray[np.float32]
Scores = dict[str, float]
"""Of one clip, by the names of a judge's metrics and statistics; what could not be measured, such
as the pitch of a clip without a voiced frame, is not in it."""

INSTALL = {"resemblyzer": "--no-deps resemblyzer"}
"""Of packages that the extra `judges` leaves out. What else resemblyzer asks for is not needed, and
has to be compiled."""
MIN_SECONDS = 0.05
JUDGE_RATE = 16_000
"""Hz, of what all pretrained judges were trained on."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One spoken sentence.

    Attributes:
        wave, reference: what is judged and the recording of the same sentence, float32 [n_samples]
            in [-1, 1] at `sample_rate` Hz.
        text, language: what is to be said, and its code; empty if it is not known.
        name: for messages.
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
        return resampled(self.wave, self.sample_rate)

    @cached_property
    def reference_16k(self) -> Float32Array | None:
        """The recording at `JUDGE_RATE`."""
        return None if self.reference is None else resampled(self.reference, self.sample_rate)


class Judge(ABC):
    """Scores clips. One that is loaded may be called from several threads at once.

    Attributes:
        name: of the judge; `metrics.OF_JUDGE` says what it measures.
        per_clip: whether the score of a clip depends on that clip alone.
        needs_reference: whether nothing can be said without a recording of the same sentence.

    Args:
        config: with the recogniser.
        device: that it computes on, if it can.
        threads: of a CPU, that will listen at once.

    Raises:
        UserError: a package that it needs is not installed.
    """

    name: str
    per_clip: bool = True
    needs_reference: bool = False

    def __init__(self, config: JudgesConfig, device: torch.device, threads: int = 1) -> None:
        self.config, self.device, self.threads = config, device, threads
        self.load()

    def load(self) -> None:
        """Load what it needs; nothing by default."""
        return

    @abstractmethod
    def score(self, clips: Sequence[Clip]) -> list[Scores]:
        """The scores of each clip, in their order; the same clips get the same scores."""

    def objection(self, clips: Sequence[Clip]) -> str:
        """Why these clips cannot be judged; empty if they can."""
        if self.needs_reference and any(clip.reference is None for clip in clips):
            return f"{self.name}: compares with recordings, and there are none"
        return ""

    def package(self, name: str) -> Any:
        """A package by its name, imported."""
        try:
            return import_module(name)
        except ImportError as error:
            raise self._missing(error.name or name) from error

    def files(self, name: str) -> Path:
        """The folder of a package of which only files are wanted."""
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise self._missing(name)
        return Path(spec.submodule_search_locations[0])

    def _missing(self, package: str) -> UserError:
        install = INSTALL.get(package, "'dimts[judges]'")
        return UserError(
            f"the judge {self.name} needs the package {package}; install it: pip install {install}"
        )


def resampled(wave: Float32Array, rate: int, to: int = JUDGE_RATE) -> Float32Array:
    """A wave at another rate, both in Hz; float32 in [-1, 1]."""
    wave = wave.astype(np.float32)
    if rate != to:
        wave = soxr.resample(wave, rate, to, quality="HQ")
    return np.clip(wave, -1.0, 1.0)

"""What a model family brings to the platform.

A family turns what a person writes into a `dimts.training.task.Task`, loads what a training has
written, and says what its metrics mean. Its module loads torch only when a method needs it: who
only reads settings need not wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dimts.audio.mel import MelConfig
from dimts.core.config import Config
from dimts.core.metric import Metric
from dimts.storage.paths import AnyPath
from dimts.training.config import RunSettings, TrainingConfig

if TYPE_CHECKING:
    import torch

    from dimts.features.schema import Extractor
    from dimts.training.task import Task


class BaseSection(Config):
    """What a model is adapted from: the folder of a bundle or a run, here or in object storage, or
    an MLflow URI."""

    bundle: str = Field(min_length=1)


class RehearsedBase(BaseSection):
    """The same, and what is done lest the base forgets its languages.

    Attributes:
        features: prepared sets of the base's languages. What was forgotten is measured on their
            test splits; rehearsal draws from their training splits.
        rehearsal_share: share of the batches that are of the base's languages.
        held_out: utterances of each set that forgetting is measured on, at most.
    """

    features: tuple[AnyPath, ...] = ()
    rehearsal_share: float = Field(0.0, ge=0, lt=1)
    held_out: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _rehearses_something(self) -> Self:
        if self.rehearsal_share and not self.features:
            raise ValueError("rehearsal_share needs features, the base's prepared sets")
        return self


class Sections(Config):
    """What a person writes for a family, beside where and how it runs; a family adds its own."""

    family: str = "acoustic"
    training: TrainingConfig = TrainingConfig()
    base: BaseSection | None = None


class Speaker(Protocol):
    """A loaded model that speaks."""

    @property
    def sample_rate(self) -> int:
        """Of what it speaks, in Hz."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of what it speaks."""

    @property
    def voices(self) -> Sequence[str]:
        """Names of who speaks, first the one who does if none is named; empty if there is one
        only."""

    def speak(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Samples in [-1, 1] at `sample_rate`; speed and F0 are multiples of what was learned.

        Raises:
            UserError: the text cannot be spoken, there is no such language or voice, or the model
                cannot change its speed or pitch.
        """


@runtime_checkable
class Streams(Protocol):
    """A speaker that gives its samples while it speaks."""

    def stream(
        self, text: str, *, language: str | None = None, voice: str | None = None,
        speed: float = 1.0, pitch: float = 1.0,
    ) -> Iterator[NDArray[np.float32]]:  # fmt: skip
        """What `Speaker.speak` takes, spoken sentence by sentence; the pieces may be shorter.

        Raises:
            UserError: like `speak`, of whatever the text is to blame for before the first sentence.
        """


@runtime_checkable
class Vocoder(Protocol):
    """A loaded model that makes waves of mels."""

    @property
    def mel(self) -> MelConfig:
        """Spec of the mels that it takes."""

    def __call__(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Samples in [-1, 1] of a natural-log mel; `f0_T` is in Hz, 0 where nothing is voiced."""

    def stream(self, mels: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The same samples piece by piece, of a mel that comes in pieces."""

    def chunks(
        self, mel_TM: NDArray[np.float32], f0_T: NDArray[np.float32] | None = None,
        soon: bool = True,
    ) -> Iterator[NDArray[np.float32]]:  # fmt: skip
        """The samples of a call piece by piece; the first piece is a short one where `soon`."""


@runtime_checkable
class Reads(Protocol):
    """A loaded model that writes what it hears."""

    @property
    def sample_rate(self) -> int:
        """Of what it hears, in Hz."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of what it reads."""

    def read(self, wave_S: NDArray[np.float32]) -> str:
        """The normalised text of samples in [-1, 1]."""

    def misread(self, heard: str, text: str) -> float:
        """Letters that differ in two normalised texts, in % of those of the second."""

    def normalise(self, text: str) -> str:
        """A text as it would be read; raises a `UserError` if it cannot be."""


@runtime_checkable
class SpeaksMels(Protocol):
    """A speaker that makes mels, and waves of them by a vocoder."""

    mel_config: MelConfig
    vocoder: Vocoder | None


class Limits(Config):
    """What a promoted model has to keep; a family adds its own."""

    margin: float = Field(0.0, ge=0, description="by how much it must be better than the champion")


class SharedInputs(NamedTuple):
    """What the trials of a sweep have in common.

    Fingerprints of what must stay the same, by what it is, and a function that computes what each
    trial would, and returns what objectives are compared with.
    """

    facts: Mapping[str, str]
    prepare: Callable[[], dict[str, float]]


class Measured(NamedTuple):
    """A model on a split.

    Attributes:
        ids: of the utterances.
        values: of the metric that decides, one an utterance.
        metrics: their means and more, by name.
        unmeasured: why it must not be promoted without being told to; empty if all was measured.
        decides: the metric that `values` are of; None: the family's.
    """

    ids: Sequence[str]
    values: NDArray[np.float64]
    metrics: Mapping[str, float]
    unmeasured: Sequence[str] = ()
    decides: Metric | None = None


def lazily(place: str) -> Any:
    """A method of a family that is a function elsewhere, ``module:name`` below `dimts.families`;
    the module is loaded when it is called."""
    module, name = place.split(":")

    def call(*arguments: Any, **named: Any) -> Any:
        return attrgetter(name)(import_module(f"dimts.families.{module}"))(*arguments, **named)

    return staticmethod(call)


def go_on_from(run_dir: str | Path, *settings: str) -> str:
    """What to do where a run cannot go on as it is: a new one that starts from its weights."""
    sets = ("run.name=NEW", f"base.bundle={run_dir}", *settings)
    return f"to go on from its weights give {' '.join(f'--set {one}' for one in sets)}"


class Family(ABC):
    """A kind of model. It brings `task` and `load`; the rest has defaults. Most bring `scores`.

    Attributes:
        name: of the family; stands in settings and manifests.
        Sections, Settings: what a person writes, and what a training process is given.
        metrics: all of them; the first is what chooses the best checkpoint, see `selection`.
        decides: the metric that promotion compares, one value an utterance.
        Limits: what a promoted model has to keep.
    """

    name: str
    Sections: type[Sections] = Sections
    Settings: type[RunSettings] = RunSettings
    metrics: tuple[Metric, ...]
    decides: Metric
    Limits: type[Limits] = Limits

    def with_base(self, sections: Any, bundle: Path) -> Any:
        """The sections with what follows from the base, such as the sizes of the model.

        Raises:
            UserError: it is no such base, or the sections do not fit it.
        """
        return sections

    def settings(self, sections: Any, run_dir: Path, config_yaml: str) -> RunSettings:
        """What the processes that train are given: sections that have a place in `Settings`."""
        own = {"family": self.name, "run_dir": run_dir, "config_yaml": config_yaml}
        names = self.Settings.model_fields.keys() - own.keys()
        return self.Settings(**own, **{name: getattr(sections, name) for name in names})

    def selection(self, sections: Any) -> Metric:
        """What chooses the best checkpoint, and stops poor trials of a sweep early; of sections or
        of a process's settings."""
        return self.metrics[0]

    def extractors(self, sections: Any) -> Sequence[Extractor]:
        """What data preparation makes of each utterance."""
        return ()

    def prepare_inputs(self, settings: Any) -> None:
        """Make what `task` only reads, and takes long to make, before workers are started.

        Raises:
            UserError: data are missing or do not fit.
        """
        return

    @abstractmethod
    def task(self, settings: Any, device: torch.device) -> Task:
        """The model, its losses and its data, ready to train.

        Raises:
            UserError: data are missing or do not fit, or the run was begun with others.
        """

    @abstractmethod
    def load(self, bundle: Path, device: str = "cpu") -> Speaker:
        """The speaker of a bundle.

        Raises:
            BundleError: the bundle is damaged or does not fit together.
        """

    def scores(self, settings: Any, bundle: Path, split: str, device: torch.device) -> Measured:
        """What `measure`, `held_out` and `for_promotion` say of a split; by default nothing, and a
        model of which nothing is measured is not promoted without being told to."""
        return Measured((), np.empty(0), {}, ("its family measures nothing on held-out data",))

    def new_run_hint(self, place: str) -> str:
        """What to do where a run cannot go on as it is, such as a new one from its weights."""
        return "give this one another run.name"

    def check_search(self, keys: Sequence[str], objectives: Sequence[str], early: bool) -> None:
        """Refuse a search of settings (`keys`) whose trials could not be compared by the objectives
        or, where they are stopped `early`, by the selection metric.

        Raises:
            ValueError: they could not.
        """
        return

    def shared_inputs(self, settings: Sequence[Any], measured: Sequence[str]) -> SharedInputs:
        """Check a sweep's trials, given by settings for each value that is searched and by the
        objectives that take a measurement; nothing is written.

        Raises:
            UserError: a setting does not fit the data, or an objective cannot be measured.
        """
        return SharedInputs({}, dict)

    def measure(
        self, settings: Any, bundle: Path, names: Sequence[str], shared: Mapping[str, float],
        device: torch.device,
    ) -> dict[str, float]:  # fmt: skip
        """Objectives (`names`) of a trial's best checkpoint, on the validation split; `shared` is
        what `SharedInputs.prepare` returned."""
        found = self.scores(settings, bundle, "val", device).metrics if names else {}
        return {f"val/{key}": value for key, value in found.items() if f"val/{key}" in names}

    def held_out(
        self, settings: Any, bundle: Path, device: torch.device
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of a run's best checkpoint on held-out utterances, and those of what it was
        adapted from, where that was measured."""
        scores = {s: self.scores(settings, bundle, s, device).metrics for s in ("val", "test")}
        return {f"{s}/{k}": v for s, of in scores.items() for k, v in of.items()}, {}

    def for_promotion(
        self, settings: Any, device: torch.device
    ) -> Callable[[Path, str, bool], Measured]:
        """A function that measures bundles on the test split of a run's settings.

        Returns:
            (bundle, what to call it in errors, whether it is the candidate) -> measured.

        Raises:
            UserError: there is nothing to measure on.
        """
        return lambda bundle, what, is_candidate: self.scores(settings, bundle, "test", device)

    def objections(self, metrics: Mapping[str, float], limits: Any) -> list[str]:
        """Why a model is not promoted, beside not being better; empty if nothing speaks
        against it."""
        return []

    def regressions(
        self, settings: Any, ours: Mapping[str, float], theirs: Mapping[str, float] | None
    ) -> list[str]:
        """In which metrics a candidate is worse than the champion (None: there is none) by more
        than the settings allow; those speak against it, too."""
        return []

"""What a model family hands to the trainer: a model, its losses, its data, its bundle.

The trainer knows nothing else of a family. A step runs the objectives one after another, so that
one loss, or a generator and a discriminator, fit the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimts.core.metric import Metric
from dimts.training.config import OptimizerConfig

Losses = dict[str, Tensor]
"""Names and scalars, as they are logged; the first is the one that is minimised."""

Seed = tuple[int, ...]
"""What random crops and prompts of a batch are drawn from: seed, epoch and number of the batch."""


class Moment(NamedTuple):
    """Where in a run a loss is computed.

    Attributes:
        step: optimizer steps done before.
        planned_steps: of the run when it began; it may have been made longer since.
    """

    step: int
    planned_steps: int

    @property
    def at_the_end(self) -> Moment:
        """The last moment, in which validation computes its losses whatever the phase."""
        return self._replace(step=self.planned_steps)


@dataclass(frozen=True)
class Batch:
    """Utterances collated into tensors; a family adds its own fields.

    Attributes:
        ids: of the utterances, for messages.
        size: units (frames, tokens or samples) of the whole batch, over all workers.
    """

    ids: Sequence[str]
    size: int

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Self:
        """The same batch in memory that a GPU copies from while the CPU goes on."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


class Dataset(Protocol):
    """A split of a corpus."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Units of each utterance, [n]; batches are of about the same."""
        ...

    def __len__(self) -> int: ...

    def collate(
        self,
        indices: Sequence[int],
        whole: Sequence[int] | None = None,
        *,
        seed: Seed = (0,),
        pad_to_multiple: bool = False,
    ) -> Batch:
        """The batch of some utterances.

        Args:
            indices: of the utterances.
            whole: those of the whole batch, over all workers and micro-batches, which the losses
                are a share of; `indices` themselves if None.
            seed: of random crops; what is drawn for an utterance must depend on it and on the
                utterance alone, or a batch would change with the number of workers.
            pad_to_multiple: pad so that few shapes occur, as a GPU plans anew for each.
        """
        ...


class Objective(NamedTuple):
    """One loss and what it trains.

    Attributes:
        name: of the objective; stands in checkpoints.
        module: ``forward(batch, moment)`` returns `Losses`, scalars that add up over the parts of
            a batch to those of the whole. Its registered parameters that require a gradient are
            trained, and no other objective's.
        optimizer: settings.
        start_step: step from which it is trained.
    """

    name: str
    module: nn.Module
    optimizer: OptimizerConfig
    start_step: int = 0


class Sample(NamedTuple):
    """What a model makes of one text, or of one recording, at a step: a file and its plots."""

    step: int
    text: str
    wav: Path
    plots: tuple[Path, ...] = ()


def count_parameters(module: nn.Module) -> dict[str, int]:
    """``trained`` and ``frozen`` values of a module's parameters."""
    counts = {"trained": 0, "frozen": 0}
    for parameter in module.parameters():
        counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def samples_of(folder: Path, step: int, texts: Sequence[str], what: str) -> list[Sample]:
    """Where the samples of a step are, each with a plot of its mel."""
    stems = [folder / f"step_{step:06d}" / f"{what}_{n}" for n in range(1, len(texts) + 1)]
    return [
        Sample(step, text, stem.with_suffix(".wav"), (stem.with_name(f"{stem.name}_mel.png"),))
        for text, stem in zip(texts, stems, strict=True)
    ]


def samples_so_far(folder: Path, texts: Sequence[str], what: str) -> list[Sample]:
    """Those of all steps that are there, of those before a restart, too."""
    steps = sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))
    every = [sample for step in steps for sample in samples_of(folder, step, texts, what)]
    return [sample for sample in every if sample.wav.exists() and sample.plots[0].exists()]


class Samples(NamedTuple):
    """All samples of a step, and further image files."""

    samples: Sequence[Sample]
    plots: Sequence[Path] = ()


WriteBundle = Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        model: what ships, on its device; part of the first objective's module.
        objectives: in the order of a step; the first is validated.
        train, val: what is learned, and what is validated on.
        selection: the metric of validation that chooses the best checkpoint.
        unit: what lengths count: frames, tokens or samples.
        write_bundle: (folder, weights, facts) -> None.
        sample: (folder, step) -> samples with the model's present weights, written into the
            folder; raises what a model without sense may raise.
        listen: further metrics of a validation, ``val/*``, of the model's present weights, asked of
            rank 0; None: there are none but the losses.
        rehearsal: what must not be forgotten.
        rehearsal_share: share of the batches that are of that.
        counts: of parameters and the like, logged once as metrics of step 0.
        notes: lines that a person reads once, when the run begins.
        repeats: how often an epoch visits each utterance of `train`, on average, [n]; None: once.
    """

    model: nn.Module
    objectives: tuple[Objective, ...]
    train: Dataset
    val: Dataset
    selection: Metric
    unit: str
    write_bundle: WriteBundle
    sample: Callable[[Path, int], Samples] = lambda folder, step: Samples(())
    listen: Callable[[], Mapping[str, float]] | None = None
    rehearsal: Dataset | None = None
    rehearsal_share: float = 0.0
    counts: Mapping[str, float] | None = None
    notes: Sequence[str] = ()
    repeats: NDArray[np.float64] | None = None

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

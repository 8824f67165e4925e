"""The configuration of a sweep: a voice's, with a ``sweep:`` section from a space's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator

from dimts.commands.voice_config import RunnableConfig, config_class, family_in
from dimts.core.config import build_config, flatten, put, read_settings, to_yaml
from dimts.core.errors import ConfigError
from dimts.families.registry import get_family
from dimts.launch.settings import RunConfig
from dimts.storage.paths import folder_here
from dimts.tuning.config import SweepConfig, check_objectives
from dimts.tuning.remote_sweep import TRIALS
from dimts.tuning.space import IntRange, Space, examples
from dimts.tuning.sweep import Plan

SEARCHED = ("model.", "training.", "base.")
"""Sections of what a trial may have of its own; the features, for one, are shared by all."""
OURS = tuple(
    f"training.{name}."
    for name in (
        "max_steps", "validate_every", "checkpoint_every", "sample_every", "sample_texts",
        "keep_checkpoints", "patience", "threads",
    )
)  # fmt: skip
"""What the sweep itself sets in its trials."""
BATCH_SIZE = "training.batch_size"
MAX_DEVIATION = 0.1
"""Share of `sweep.utterances` by which a trial may be trained on more or less."""


class SweepVoice(RunnableConfig):
    """A model's configuration, and what of it is searched."""

    sweep: SweepConfig

    @field_validator("sweep")
    @classmethod
    def _can_be_compared(cls, sweep: SweepConfig, info: ValidationInfo) -> SweepConfig:
        family = get_family(info.data["family"])
        check_objectives(sweep, family.metrics)
        early = sweep.early_stopping is not None
        family.check_search(list(sweep.space), list(sweep.objectives), early)
        return sweep

    @property
    def _title(self) -> str:
        return f"{self.run.name}-{self.sweep.name}"

    def plan(self) -> Plan:
        """The sweep, ready to run.

        Raises:
            UserError: there is no such base, or a setting of the space is none of the voice's.
        """
        place = (self.run.storage / self._title).absolute()
        pinned = self.pinned()  # all trials start from the same base
        settings = pinned.model_dump(exclude={"sweep"}, exclude_unset=True)
        voice = config_class(self.family).model_validate(settings)
        _check_keys(self.sweep.space, voice)
        if isinstance(sizes := self.sweep.space.get(BATCH_SIZE), IntRange):
            for size in range(max(1, sizes.low), sizes.high + 1, sizes.step or 1):
                self._validate_every(voice, size)  # those between the ends may not divide as well
        for point in (*self.sweep.known_good, *examples(self.sweep.space)):
            self.trial(voice, 0, point)
        return Plan(
            title=self._title,
            voice=self.run.name,
            folder=folder_here(place, "runs", "driver"),
            place=place,
            sweep=self.sweep,
            ray=self.ray,
            tracking=self.tracking.absolute(),
            config_yaml=to_yaml(pinned),
            params=flatten(pinned.model_dump(mode="json")),
            metrics=self.of_family.metrics,
            selection=self.of_family.selection(pinned),
            launch=lambda number, values: self.trial(voice, number, values).launch(),
        )

    def trial(
        self, voice: RunnableConfig, number: int, values: Mapping[str, Any]
    ) -> RunnableConfig:
        """The voice that one trial trains; a `ConfigError` if the values do not make one."""
        settings = voice.model_dump(exclude_unset=True)  # sizes that are not given are the base's
        origins: dict[tuple[str, ...], str] = {(): "sweep.space"}
        for key, value in values.items():
            put(settings, key, value)
            origins[tuple(key.split("."))] = "sweep.space"
        searched = build_config(type(voice), settings, origins)
        every = self._validate_every(voice, searched.training.batch_size)
        cpus = self.ray.cpus_per_worker if self.ray.workers > 1 else self.sweep.cpus_per_trial
        own = {
            "max_steps": every * self.sweep.validations,
            "validate_every": every,
            "checkpoint_every": every,
            "sample_every": 0,
            "keep_checkpoints": 1,
            "patience": 0,
            "threads": voice.training.threads or max(1, int(cpus)),
        }
        run = RunConfig(name=f"{number:03d}", storage=self.run.storage / self._title / TRIALS)
        training = searched.training.model_copy(update=own)
        return searched.model_copy(update={"training": training, "run": run})

    def _validate_every(self, voice: RunnableConfig, batch_size: int) -> int:
        """Steps from one validation of a trial to the next; raises like `trial`."""
        wanted, validations = self.sweep.utterances, self.sweep.validations
        if not wanted:
            return max(1, voice.training.max_steps // validations)
        every = max(1, round(wanted / (batch_size * validations)))
        utterances = every * validations * batch_size
        if abs(utterances - wanted) > wanted * MAX_DEVIATION:
            raise ConfigError(
                f"sweep.utterances={wanted} cannot be had with sweep.validations={validations} "
                f"and {BATCH_SIZE}={batch_size}: steps that they divide would make {utterances}; "
                "raise sweep.utterances or lower sweep.validations"
            )
        return every


def load_sweep(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> SweepVoice:
    """The configuration of a sweep of any family; raises like `load_voice`."""
    values, origins = read_settings(files, overrides)
    of_family = config_class(family_in(values, origins))
    cls = type(f"Sweep{of_family.__name__}", (of_family, SweepVoice), {})
    return build_config(cls, values, origins)


def _check_keys(space: Space, voice: RunnableConfig) -> None:
    for key in space:
        if key.startswith("base.") and voice.base is None:
            raise ConfigError(
                f"sweep.space: {key}: this voice has no section base; leave it out, or add "
                "--config jobs/configs/start/finetune.yaml"
            )
        if not key.startswith(SEARCHED):
            raise ConfigError(
                f"sweep.space: {key} cannot differ between trials; allowed here are settings of "
                f"{', '.join(section.rstrip('.') for section in SEARCHED)}"
            )
        if f"{key}.".startswith(OURS):
            raise ConfigError(f"sweep.space: {key} is set by the sweep itself; leave it out")
        for other in space:
            if key.startswith(f"{other}."):
                raise ConfigError(
                    f"sweep.space: {key} is part of {other}, which is searched as well; leave one "
                    "of them out"
                )

"""The one configuration of a voice, which all commands read: ``configs/VOICE.yaml``.

It is a family's sections and, the same for all families, where and how it runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Self, cast

from pydantic import model_validator

from dimts.core.config import build_config, flatten, read_settings, to_yaml
from dimts.core.errors import ConfigError
from dimts.families.acoustic.settings import AcousticSections
from dimts.families.protocol import BaseSection, Family, Sections
from dimts.families.registry import DEFAULT, get_family
from dimts.launch.names import BASES
from dimts.launch.settings import Launch, RayConfig, RunConfig
from dimts.storage.paths import any_path, is_remote
from dimts.tracking.config import TrackingConfig, is_in_mlflow


class RunnableConfig(Sections):
    """A family's sections, and where and how they run."""

    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()
    run: RunConfig

    @model_validator(mode="after")
    def _has_work_for_all(self) -> Self:
        training, ray = self.training, self.ray
        share = max(1, ray.workers) * training.accumulate
        if share > training.batch_size and not training.batch_budget:
            raise ValueError(
                f"training.batch_size ({training.batch_size}) must be at least ray.workers x "
                f"training.accumulate ({share}), each of which gets an utterance"
            )
        if training.amp in ("fp16", "tf32") and not ray.gpu:
            raise ValueError(
                f"training.amp: {training.amp} needs ray.gpu; on a CPU use bf16 or off"
            )
        return self

    @property
    def of_family(self) -> Family:
        """The family that it is of."""
        return get_family(self.family)

    def resolved(self) -> Self:
        """With the base found, and what follows from it.

        Raises:
            UserError: there is no such base, or the settings do not fit it.
        """
        if self.base is None:
            return self
        from dimts.bundles.fetch import local_bundle

        located = self._located(self.base)
        assert located.base is not None
        return cast(Self, self.of_family.with_base(located, local_bundle(located.base.bundle)))

    def pinned(self) -> Self:
        """With a base that may be another one tomorrow, an alias of MLflow or a pointer in object
        storage, as it is now; raises like `resolved`."""
        if self.base is None or not (is_remote(self.base.bundle) or is_in_mlflow(self.base.bundle)):
            return self
        return self._located(self.base)

    def _located(self, base: BaseSection) -> Self:
        """With the base where all machines find it, and each of them the same."""
        from dimts.bundles.bundle import resolve_bundle
        from dimts.bundles.fetch import share_bundle
        from dimts.tracking.mlflow_model import resolve_model

        if is_remote(base.bundle):
            found = resolve_bundle(any_path(base.bundle))
        else:
            found = folder = resolve_model(base.bundle, self.tracking).absolute()
            if is_in_mlflow(base.bundle):
                name = re.sub(r"[^A-Za-z0-9.-]+", "-", base.bundle.partition(":/")[2]).strip("-")
                found = share_bundle(folder, self.run.storage.absolute() / BASES, name)
        return self.model_copy(update={"base": base.model_copy(update={"bundle": str(found)})})

    def launch(self) -> Launch:
        """What the processes that train are handed; raises like `resolved`."""
        config = self.resolved()
        # As it was given: the copy of a model that MLflow keeps lies elsewhere each time.
        recorded = config.model_copy(update={"base": self.base})
        return Launch(
            name=config.run.name,
            settings=self.of_family.settings(config, config.run.run_dir, to_yaml(recorded)),
            tracking=config.tracking.absolute(),
            params=flatten(recorded.model_dump(mode="json")),
            place=config.run.place,
        )


class VoiceConfig(AcousticSections, RunnableConfig):
    """A voice of the acoustic family."""


@cache
def config_class(family: str) -> type[RunnableConfig]:
    """The configuration of a family's models; a `ConfigError` if there is no such family."""
    if family == DEFAULT:
        return VoiceConfig
    return type(f"{family.title()}Config", (get_family(family).Sections, RunnableConfig), {})


def load_voice(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunnableConfig:
    """The configuration that YAML files and ``key=value`` overrides make, of any family.

    Raises:
        ConfigError: one line naming the file or the override, the key and what is allowed.
    """
    values, origins = read_settings(files, overrides)
    return build_config(config_class(family_in(values, origins)), values, origins)


def family_in(values: dict[str, object], origins: dict[tuple[str, ...], str]) -> str:
    """The family that settings name; a `ConfigError` if it is no name."""
    family = values.get("family", DEFAULT)
    if not isinstance(family, str):
        raise ConfigError(f"{origins.get(('family',), 'settings')}: family: must be a name")
    return family

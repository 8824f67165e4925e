"""Settings of a run: its name, its folder, and what it runs on."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from dimts.core.config import Config
from dimts.families.protocol import Family
from dimts.families.registry import get_family
from dimts.storage.paths import AnyPath, StoragePath, folder_here
from dimts.tracking.config import TrackingConfig
from dimts.training.config import RunSettings


class RunConfig(Config):
    """A run's place.

    Attributes:
        name: of the run; one that was interrupted goes on when it is started again.
        storage: folder of all runs; the run's own folder is inside it. All nodes see it, or it is
            in object storage.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    storage: AnyPath = Path("runs")

    @property
    def place(self) -> AnyPath:
        """Of the run, wherever that is."""
        return (self.storage / self.name).absolute()

    @property
    def run_dir(self) -> Path:
        """Its folder on the machine that it is started from."""
        return folder_here(self.place, "runs", "driver")


class RayConfig(Config):
    """What Ray Train runs the loop on.

    Attributes:
        workers: processes that share each batch; 0 trains in this process, without Ray.
        gpu: one GPU for each worker; the loop then runs on CUDA and reduces by NCCL.
        cpus_per_worker: cores reserved for each; 0 shares out those that there are, and is one
            where `autoscaled`.
        max_failures: times in a row that a group of workers may die without a new checkpoint
            in between, and is started again.
        autoscaled: the cluster starts nodes for what is asked of it, so that workers may need more
            than there is now; they are waited for.
        report_interval_s: how often Ray's controller looks at its workers, in seconds.
    """

    workers: int = Field(1, ge=0)
    gpu: bool = False
    cpus_per_worker: int = Field(0, ge=0)
    max_failures: int = Field(2, ge=0)
    autoscaled: bool = False
    report_interval_s: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.workers == 0 and self.cpus_per_worker:
            raise ValueError("cpus_per_worker has no effect while workers is 0")
        return self


class Launch(Config):
    """What is handed to the process that trains.

    Attributes:
        name, place: of the run; where all nodes find it.
        settings: of the training.
        tracking: where it is recorded, with paths made absolute.
        params: the resolved configuration, flat.
        tags: of the recorded run; ``mlflow.parentRunId`` nests it.
        title: what people see of it in MLflow; the name if empty.
        start: tells one start of a run in object storage from another.
    """

    name: str
    settings: SerializeAsAny[RunSettings]
    tracking: TrackingConfig
    params: dict[str, Any]
    place: AnyPath
    tags: dict[str, str] = Field(default_factory=dict)
    title: str = ""
    start: str = Field(default_factory=lambda: uuid.uuid4().hex)

    @field_validator("settings", mode="before")
    @classmethod
    def _of_their_family(cls, settings: Any) -> Any:
        """In the process that trains they are built from what they were dumped to."""
        if isinstance(settings, Mapping):
            return get_family(settings["family"]).Settings.model_validate(settings)
        return settings

    @property
    def family(self) -> Family:
        """The family of what is trained."""
        return get_family(self.settings.family)

    @property
    def run_dir(self) -> Path:
        """Its folder on this machine: `place`, if that is one."""
        return self.settings.run_dir

    @property
    def remote(self) -> StoragePath | None:
        """`place`, if that is in object storage."""
        return self.place if isinstance(self.place, StoragePath) else None

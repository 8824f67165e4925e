"""Ray Train's trainer without those of its processes that have nothing to do here."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from dimts.core.environment import named_cluster


class LeanTrainer(TorchTrainer):
    """Starts two Python processes less, which take seconds of each start and memory.

    There are no datasets of Ray's to be shared out. What a controller leaves behind that was
    killed has to be cleaned up only on a cluster that is still there afterwards.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused: list[type] = [DatasetsCallback]
        if not named_cluster():
            unused.append(PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # of Ray Train V2
        return [callback for callback in callbacks if type(callback) not in unused]

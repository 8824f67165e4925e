"""TensorBoard event files beside a run, by the switch ``tracking.tensorboard``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimts.core.errors import UserError
from dimts.core.masking import mask_secrets
from dimts.tracking.tracker import Status

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RETRY_S = 30.0
TRAINED = ("train/", "val/total_loss", "parameters/")
"""What only a session that trains writes; one that is started again to be measured does not."""

log = logging.getLogger(__name__)


class TensorboardTracker:
    """Scalars and the settings of a run as event files in ``<run folder>/tensorboard``.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracking.tensorboard is on and TensorBoard is not installed: "
                "pip install 'dimts[tensorboard]'"
            ) from None
        self._open = SummaryWriter
        self._folder: Path | None = None
        self._config_yaml = ""
        self._writer: SummaryWriter | None = None
        self._rests_until = 0.0
        self._told_full = False

    def start(
        self,
        run_name: str,
        run_dir: Path,
        params: Mapping[str, Any],
        config_yaml: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Remember where to write; the first step trained tells where a resumed run goes on."""
        self._folder = Path(run_dir) / "tensorboard"
        self._config_yaml = mask_secrets(config_yaml)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags are MLflow's."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars; what an earlier session wrote of steps that are trained anew is purged.

        A full disk costs points, until another file can be begun.
        """
        assert self._folder is not None, "start() comes first"
        if time.monotonic() < self._rests_until:
            return
        try:
            if self._writer is None:
                trained = any(key.startswith(TRAINED) for key in values)
                purge_step = step if trained else None
                self._writer = self._open(str(self._folder), purge_step=purge_step)
                self._writer.add_text("config", f"```yaml\n{self._config_yaml}\n```", step)
            for key, value in values.items():
                self._writer.add_scalar(key, value, step)
        except OSError as error:
            self._give_up_file(error)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Files are MLflow's."""

    def log_model(self, bundle_dir: Path, metrics: Mapping[str, float], step: int = 0) -> None:
        """Models are MLflow's."""

    def finish(self, status: Status) -> None:
        """Close the event file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up_file(error)
            self._writer = None

    def _give_up_file(self, error: OSError) -> None:
        """The thread that writes it has ended, and takes nothing more."""
        self._writer = None
        self._rests_until = time.monotonic() + RETRY_S
        if not self._told_full:
            self._told_full = True
            log.warning("%s takes no more: %s; points are lost", self._folder, error.strerror)

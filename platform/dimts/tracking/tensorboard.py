"""TensorBoard event files beside a run, by the switch ``tracking.tensorboard``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dimts.core.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RETRY_S = 30.0
TRAINED = ("train/", "val/total_loss", "parameters/")
"""What only a session that trains writes; one that is started again to be measured does not."""

log = logging.getLogger(__name__)


class TensorboardWriter:
    """Scalars and the settings of a run as event files in ``<run folder>/tensorboard``.

    A full disk costs points, until another file can be begun; the event log has them.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, run_dir: Path, config_yaml: str = "") -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracking.tensorboard is on and TensorBoard is not installed: "
                "pip install 'dimts[tensorboard]'"
            ) from None
        self._open = SummaryWriter
        self._folder = run_dir / "tensorboard"
        self._config = f"```yaml\n{config_yaml}\n```"
        self._writer: SummaryWriter | None = None
        self._rests_until = 0.0
        self._told_full = False

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars; what an earlier session wrote of steps that are trained anew is purged."""
        self._unless_full(lambda: self._write(values, step))

    def _write(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            trained = any(key.startswith(TRAINED) for key in values)
            self._writer = self._open(str(self._folder), purge_step=step if trained else None)
            self._writer.add_text("config", self._config, step)
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._unless_full(self._writer.close)
            self._writer = None

    def _unless_full(self, write: Callable[[], None]) -> None:
        """The thread that writes the file ends with the disk's error, and takes nothing more."""
        if time.monotonic() < self._rests_until:
            return
        try:
            write()
        except OSError as error:
            self._writer = None
            self._rests_until = time.monotonic() + RETRY_S
            if not self._told_full:
                self._told_full = True
                log.warning("%s takes no more: %s; points are lost", self._folder, error.strerror)

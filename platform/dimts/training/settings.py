"""What a training process needs to know; every worker gets the same."""

from __future__ import annotations

from pathlib import Path

from dimts.core.config import Config
from dimts.training.config import TrainingConfig


class RunSettings(Config):
    """One training; a family adds what it trains on what.

    Attributes:
        family: name of the model family.
        run_dir: folder of the run: checkpoints, event log, plots.
        training: the loop.
        config_yaml: the resolved configuration, for the bundle.
    """

    family: str
    run_dir: Path
    training: TrainingConfig
    config_yaml: str

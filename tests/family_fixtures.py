"""The families that keep the contract: a family is added to `CASES`, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dimts.commands.voice_config import RunnableConfig, load_voice
from dimts.training.callbacks import Callbacks

LOOP = {
    "max_steps": 12, "batch_size": 4, "amp": "off", "threads": 1, "log_every": 1,
    "validate_every": 6, "checkpoint_every": 4, "sample_every": 0,
    "optimizer": {"warmup_steps": 4, "learning_rate": 1e-2},
}  # fmt: skip


class Case(NamedTuple):
    """What the contract needs to know of a family beside its name.

    Attributes:
        settings: of a small model, as YAML; or the fixture that gives its file.
        loss: the metric of training that falls.
        freeze: settings by which a part is frozen.
        frozen: beginnings of the names of the weights that then stay.
        text: that it speaks; None: it takes a mel.
    """

    settings: dict[str, Any] | str
    loss: str
    freeze: tuple[str, ...]
    frozen: tuple[str, ...]
    text: str | None


CASES = {
    "acoustic": Case(
        "voice_file",
        "train/total_loss",
        ("model.freeze_blocks.encoder=[0]",),
        ("encoder.blocks.0.",),
        "ሰላም",
    ),
    "vocoder": Case(
        "vocoder_file",
        "train/loss",
        ("model.freeze=[pitch]",),
        ("pitch_net.",),
        None,
    ),
    "recogniser": Case(
        "recogniser_file", "train/loss", ("model.freeze=[0]",), ("blocks.0.",), None
    ),
    "chatterbox": Case(
        "chatterbox_file",
        "train/loss",
        ("model.mode=lora", "model.freeze_until_index=200"),
        ("speech_emb.", "tfmr.layers.0.self_attn.q_proj.weight"),
        "ሰላም",
    ),
    "toy": Case(
        {"family": "toy", "training": LOOP}, "train/loss", ("model.freeze=true",), ("first.",), "hi"
    ),
}
Build = Callable[..., RunnableConfig]
OWN_WAY = ("chatterbox", "recogniser")
KILLED = [pytest.param(n, marks=pytest.mark.slow) if n in OWN_WAY else n for n in CASES]
"""Stopped it goes on bit for bit each time; what else a kill does is the same for all."""
SWEPT = [n if n in ("acoustic", "toy") else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
"""A sweep knows metrics and settings of a family alone."""


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(family: str) -> Case:
    return CASES[family]


@pytest.fixture
def file(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The YAML of a small model of the family; its runs are in the test's folder."""
    settings: dict[str, Any]
    if isinstance(case.settings, str):
        given: Path = request.getfixturevalue(case.settings)
        settings = yaml.safe_load(given.read_text(encoding="utf-8"))
        settings["training"] |= {"checkpoint_every": 4}
    else:
        settings = dict(case.settings)
    settings |= {
        "run": {"name": "small", "storage": str(tmp_path)},
        "ray": {"workers": 0},
        "tracking": {"enabled": False},
    }
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture
def build(file: Path) -> Build:
    """``build("training.max_steps=3")``: its configuration."""
    return lambda *overrides: load_voice([file], overrides)


class Listener(Callbacks):
    """Keeps what is logged, and stops after a number of steps."""

    def __init__(self, stop_after: int = 10**9):
        self.values: dict[int, dict[str, float]] = {}
        self._left = stop_after

    def log(self, values: dict[str, float], step: int) -> None:
        self.values.setdefault(step, {}).update(values)

    def should_stop(self) -> bool:
        self._left -= 1
        return self._left <= 0

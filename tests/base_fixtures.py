"""Bundles to start from that are made up, or changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from conftest import MODEL
from torch import Tensor

from dimts.bundles.bundle import read_weights
from dimts.core.config import build_config
from dimts.families.acoustic.bundle import build_model, write_bundle
from dimts.families.acoustic.model.config import ModelConfig
from dimts.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conftest import BaseVoice


def write_base(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """An untrained voice with the sizes of the tiny base."""
    folder.mkdir()
    torch.manual_seed(0)
    model = build_model(
        build_config(ModelConfig, MODEL), tokenizer, torch.zeros(80), torch.ones(80)
    )
    settings = yaml.safe_dump({"model": MODEL, "mel": {}, **changes})
    facts = {"step": 1, "epoch": 0, "metrics": {}, "features": "f"}
    write_bundle(folder, model.state_dict(), tokenizer, settings, facts)
    return folder


def copied(base: BaseVoice, folder: Path) -> Path:
    """The exported base once more, in `folder`, to be changed."""
    shutil.copytree(base.exported, folder / "copy")
    return folder / "copy"


def rewrite(
    bundle: Path, weights: dict[str, Tensor] | None = None, mel: dict[str, Any] | None = None
) -> None:
    """The bundle with other parts, its checksums right."""
    settings = yaml.safe_load((bundle / "config.yaml").read_text(encoding="utf-8"))
    settings["mel"] |= mel or {}
    write_bundle(
        bundle,
        weights or read_weights(bundle),
        Tokenizer.load(bundle / "tokenizer.json"),
        yaml.safe_dump(settings),
        {"step": 1, "epoch": 0, "metrics": {}, "features": "f"},
    )

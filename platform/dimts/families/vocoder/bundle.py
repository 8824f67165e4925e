"""The bundle of a vocoder: its matrices in half precision, and the spec of its mel."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.bundles import bundle
from dimts.bundles.bundle import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    BundleError,
    BundleManifest,
    check_weights,
    file_of,
    read_manifest,
    read_settings,
    read_weights,
    resolve_bundle,
    sizes_alone,
)
from dimts.core.config import build_config
from dimts.families.vocoder.model.config import ModelConfig
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.sections import check_mel

FAMILY = "vocoder"
SECTIONS = ("model", "mel")
"""Of the configuration, that a vocoder's bundle must have."""


class Bundle(NamedTuple):
    """A loaded vocoder.

    Attributes:
        model: on its device, in eval mode.
        manifest: what the bundle says of itself.
    """

    model: Vocoder
    manifest: BundleManifest


def write_bundle(
    folder: Path, weights: Mapping[str, Tensor], config_yaml: str, facts: Mapping[str, Any]
) -> None:
    """Write a bundle into an existing folder; see `dimts.bundles.bundle.write_bundle`."""
    halves = {name: w.half() if w.ndim > 1 else w for name, w in weights.items()}
    bundle.write_bundle(folder, halves, config_yaml, {**facts, "family": FAMILY})


def export_bundle(source: Path, folder: Path) -> int:
    """Copy the bundle of a run without its trainer's state; bytes of the weights.

    Other files of the folder, such as a model card, stay, and are no part of the bundle.

    Raises:
        BundleError: `source` is no bundle of a vocoder.
    """
    loaded, source = load_bundle(source), resolve_bundle(source)
    facts = loaded.manifest.model_dump(include={"step", "epoch", "metrics", "features", "origin"})
    with tempfile.TemporaryDirectory() as draft:
        config_yaml = file_of(source, CONFIG).read_text(encoding="utf-8")
        write_bundle(Path(draft), loaded.model.state_dict(), config_yaml, facts)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS, MANIFEST):
            shutil.copyfile(Path(draft, name), folder / name)
    return (folder / WEIGHTS).stat().st_size


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a vocoder.

    Raises:
        BundleError: the folder is no bundle of a vocoder, is damaged, or does not fit together.
    """
    folder = resolve_bundle(folder)
    manifest = read_manifest(folder, family=FAMILY)
    config, mel = read_sizes(folder)
    weights = read_weights(folder)
    with sizes_alone():  # sizes that the weights do not have cost no memory
        check_weights(Vocoder(config, mel), weights, folder)
    with torch.random.fork_rng(devices=[]):  # who loads one in training draws on as before
        model = Vocoder(config, mel)
    model.load_state_dict(weights)
    return Bundle(model.to(device).eval(), manifest)


def read_sizes(folder: Path) -> tuple[ModelConfig, MelConfig]:
    """The model's sizes and the mel that it takes.

    Raises:
        BundleError: they are missing, or the mel is none that a vocoder takes.
        ConfigError: they are no such settings; names the file and the key.
    """
    settings = read_settings(folder, SECTIONS)
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    mel = build_config(MelConfig, settings["mel"], origin)
    try:
        check_mel(mel)
    except ValueError as error:
        raise BundleError(f"{folder / CONFIG}: {error}") from error
    return build_config(ModelConfig, settings["model"], origin), mel

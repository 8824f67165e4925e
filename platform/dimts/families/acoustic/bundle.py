"""The bundle of a voice: weights with mel statistics, configuration and tokenizer.

``tokenizer.json`` holds vocabulary, factors, language data and normaliser settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

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
)
from dimts.core.config import build_config
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.text.tokenizer import Tokenizer

TOKENIZER = "tokenizer.json"
SECTIONS = ("model", "mel")
"""Of the configuration, that a voice's bundle must have."""


class Bundle:
    """A loaded voice.

    Attributes:
        model: on its device, in eval mode.
        tokenizer: text to ids.
        mel: the spec of what the model predicts.
        settings: the resolved configuration, as plain values.
        manifest: what the bundle says of itself.
    """

    def __init__(
        self,
        model: T3,
        tokenizer: Tokenizer,
        mel: MelConfig,
        settings: Mapping[str, Any],
        manifest: BundleManifest,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.mel = mel
        self.settings = settings
        self.manifest = manifest


def build_model(
    config: ModelConfig,
    tokenizer: Tokenizer,
    mel_mean_M: torch.Tensor,
    mel_std_M: torch.Tensor,
) -> T3:
    """A T3 with the tokenizer's vocabulary."""
    return T3(
        config,
        torch.from_numpy(tokenizer.factors.copy()),
        tokenizer.factor_sizes,
        mel_mean_M,
        mel_std_M,
    )


def write_bundle(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    config_yaml: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a voice's bundle into an existing folder; see `dimts.bundles.bundle.write_bundle`.

    Args:
        folder: may already hold further files.
        weights: the model's state.
        tokenizer: the model's.
        config_yaml: resolved, with sections ``model`` and ``mel``.
        facts: step, epoch, metrics, features and, of an adapted voice, origin of
            `BundleManifest`.
    """
    tokenizer.save(folder / TOKENIZER)
    own = {"family": "acoustic", "tokenizer": tokenizer.fingerprint}
    bundle.write_bundle(folder, weights, config_yaml, {**facts, **own})


def export_bundle(source: Path, folder: Path, metrics: Mapping[str, float]) -> int:
    """Copy a bundle without its trainer's state, matrices as float16; bytes of the weights.

    Args:
        source: the bundle.
        folder: to write; what is there is replaced only if it is a bundle and nothing else.
        metrics: to stand in its manifest.

    Raises:
        BundleError: `source` is no bundle, or `folder` is the same or holds something else.
    """
    manifest = read_manifest(source)
    if folder.exists() and (folder.samefile(source) or not _holds_a_bundle_alone(folder)):
        raise BundleError(f"{folder}: exists and is not an exported bundle; name another folder")
    weights = {
        # Vectors are few, and the mel statistics among them need their digits.
        name: tensor.half() if tensor.ndim > 1 else tensor
        for name, tensor in read_weights(source).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    facts = manifest.model_dump(include={"step", "epoch", "features", "origin"})
    write_bundle(
        folder,
        weights,
        Tokenizer.load(file_of(source, TOKENIZER)),
        file_of(source, CONFIG).read_text(encoding="utf-8"),
        {**facts, "metrics": {k: v for k, v in metrics.items() if math.isfinite(v)}},
    )
    return (folder / WEIGHTS).stat().st_size


def _holds_a_bundle_alone(folder: Path) -> bool:
    """Whether nothing is lost if a bundle is written there; so of an empty folder, too."""
    if not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return not names or (MANIFEST in names and names <= {WEIGHTS, CONFIG, TOKENIZER, MANIFEST})


def load_bundle(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a voice; nothing but its folder is needed, and no pickle is read.

    Raises:
        BundleError: the folder is no bundle, is damaged, or its parts do not fit together.
    """
    folder = resolve_bundle(Path(folder))
    manifest = read_manifest(folder)
    settings = read_settings(folder, SECTIONS)
    config, mel = read_sizes(folder)
    tokenizer = read_tokenizer(folder, manifest)
    weights = read_weights(folder)
    check_fits(config, tokenizer, mel, weights, folder)
    model = build_model(config, tokenizer, torch.zeros(mel.n_mels), torch.ones(mel.n_mels))
    model.load_state_dict(weights)
    return Bundle(model.to(device).eval(), tokenizer, mel, settings, manifest)


def read_sizes(folder: Path) -> tuple[ModelConfig, MelConfig]:
    """The model's sizes and the mel that it predicts.

    Raises:
        BundleError: see `dimts.bundles.bundle.read_settings`.
        ConfigError: they are no such settings; names the file and the key.
    """
    settings = read_settings(folder, SECTIONS)
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    return (
        build_config(ModelConfig, settings["model"], origin),
        build_config(MelConfig, settings["mel"], origin),
    )


def read_tokenizer(folder: Path, manifest: BundleManifest) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: the manifest does not name it, or names another.
        UserError: it cannot be read.
    """
    if TOKENIZER not in manifest.sha256:
        raise BundleError(f"{folder / MANIFEST}: has no checksum of {TOKENIZER}")
    tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    if tokenizer.fingerprint != manifest.tokenizer:
        raise BundleError(
            f"{folder}: {TOKENIZER} is not the tokenizer that the model was trained with"
        )
    return tokenizer


def check_fits(
    config: ModelConfig,
    tokenizer: Tokenizer,
    mel: MelConfig,
    weights: Mapping[str, torch.Tensor],
    source: Path,
) -> None:
    """Refuse weights that are not those of the model that `config` asks for.

    No memory is taken for that model, so sizes that the weights do not have cost nothing.

    Raises:
        BundleError: see `check_weights`.
    """
    with torch.device("meta"):
        statistics = torch.zeros(mel.n_mels), torch.ones(mel.n_mels)
        check_weights(build_model(config, tokenizer, *statistics), weights, source)

"""The bundle of a voice: weights with mel statistics, configuration and tokenizer.

``tokenizer.json`` holds vocabulary, factors, language data and normaliser settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
    sizes_alone,
)
from dimts.core.config import build_config
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.text.tokenizer import Tokenizer

FAMILY, TOKENIZER = "acoustic", "tokenizer.json"


@dataclass(frozen=True)
class Bundle:
    """What a voice's bundle holds; the parts fit together.

    `mel` is the spec of what the model predicts.
    """

    config: ModelConfig
    mel: MelConfig
    tokenizer: Tokenizer
    weights: Mapping[str, torch.Tensor]
    manifest: BundleManifest
    device: str | torch.device

    @property
    def speakers(self) -> tuple[str, ...]:
        """The model's table of speakers; empty if it has none."""
        return self.manifest.speakers

    @property
    def sha256(self) -> str:
        """Of the file of weights."""
        return self.manifest.sha256[WEIGHTS]

    @cached_property
    def model(self) -> T3:
        """On its device, in eval mode; built when it is first asked for, as a base's never is."""
        statistics = torch.zeros(self.mel.n_mels), torch.ones(self.mel.n_mels)
        model = build_model(self.config, self.tokenizer, *statistics, len(self.speakers))
        model.load_state_dict(self.weights)
        return model.to(self.device).eval()


def build_model(
    config: ModelConfig,
    tokenizer: Tokenizer,
    mel_mean_M: torch.Tensor,
    mel_std_M: torch.Tensor,
    n_speakers: int = 0,
) -> T3:
    """A T3 with the tokenizer's vocabulary."""
    factors_VF = torch.from_numpy(tokenizer.factors.copy())
    return T3(config, factors_VF, tokenizer.factor_sizes, mel_mean_M, mel_std_M, n_speakers)


def write_bundle(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    config_yaml: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a voice's bundle into an existing folder; see `dimts.bundles.bundle.write_bundle`.

    The configuration has sections ``model`` and ``mel``; `facts` are step, epoch, metrics,
    features, of an adapted voice origin, and of several speakers their names.
    """
    tokenizer.save(folder / TOKENIZER)
    own = {"family": FAMILY, "tokenizer": tokenizer.fingerprint}
    bundle.write_bundle(folder, weights, config_yaml, {**facts, **own})


def export_bundle(source: Path, folder: Path, metrics: Mapping[str, float]) -> int:
    """Copy a bundle without its trainer's state, matrices as float16; bytes of the weights.

    What is in `folder` is replaced only if it is a bundle and nothing else; `metrics` are to stand
    in its manifest.

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
    facts = manifest.model_dump(include={"step", "epoch", "features", "origin", "speakers"})
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
    """Read the voice of a bundle, a run or a pointer, see `resolve_bundle`; no pickle is read.

    No memory is taken for the model that its settings ask for, so sizes that the weights do not
    have cost nothing.

    Raises:
        BundleError: the folder is no bundle, is damaged, or its parts do not fit together.
        UserError: settings or tokenizer cannot be read; names file and key.
    """
    folder = resolve_bundle(Path(folder))
    manifest = read_manifest(folder, family=FAMILY)
    config, mel = read_sizes(folder)
    if TOKENIZER not in manifest.sha256:
        raise BundleError(f"{folder / MANIFEST}: has no checksum of {TOKENIZER}")
    tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    if tokenizer.fingerprint != manifest.tokenizer:
        raise BundleError(
            f"{folder}: {TOKENIZER} is not the tokenizer that the model was trained with"
        )
    weights = read_weights(folder)
    with sizes_alone():
        statistics = torch.zeros(mel.n_mels), torch.ones(mel.n_mels)
        model = build_model(config, tokenizer, *statistics, len(manifest.speakers))
    check_weights(model, weights, folder)
    return Bundle(config, mel, tokenizer, weights, manifest, device)


def read_sizes(folder: Path) -> tuple[ModelConfig, MelConfig]:
    """The model's sizes and the mel that it predicts.

    Raises:
        BundleError: `read_settings` refuses the file.
        ConfigError: they are no such settings; names the file and the key.
    """
    settings = read_settings(folder, ("model", "mel"))
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    return (
        build_config(ModelConfig, settings["model"], origin),
        build_config(MelConfig, settings["mel"], origin),
    )

"""The bundle of a T3: weights, adapters unmerged, and the tokenizer's JSON beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dimts.bundles import bundle
from dimts.bundles.bundle import (
    CONFIG,
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
from dimts.families.chatterbox.model.config import LoraConfig, T3Config
from dimts.families.chatterbox.model.lora import add_lora
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.placed import read_placed
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer

FAMILY = "chatterbox"
TOKENIZER = "tokenizer.json"


class ChatterboxBundle(NamedTuple):
    """What a bundle holds; the parts fit together.

    Attributes:
        manifest: what it says of itself.
        config: sizes of the model.
        lora: of its adapters, if it has any.
        weights: on the CPU.
        tokenizer: of its texts.
        placed: which rows of text a language was given; empty if nothing says so.
    """

    manifest: BundleManifest
    config: T3Config
    lora: LoraConfig | None
    weights: dict[str, Tensor]
    tokenizer: StockTokenizer
    placed: Mapping[str, Any]

    def model(self, device: str | torch.device = "cpu") -> T3:
        """The model, adapters beside their layers, in eval mode."""
        model = build_model(self.config, self.lora)
        model.load_state_dict(self.weights)
        return model.to(device).eval()


def build_model(config: T3Config, lora: LoraConfig | None) -> T3:
    """An untrained T3, with adapters if there are any."""
    model = T3(config)
    if lora is not None:
        add_lora(model, lora)
    return model


def write_bundle(
    folder: Path,
    weights: Mapping[str, Tensor],
    tokenizer: StockTokenizer,
    config_yaml: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a bundle into an existing folder; see `dimts.bundles.bundle.write_bundle`.

    `config_yaml` has a section ``model`` with the model's sizes as ``t3`` and, where the weights
    have adapters, theirs as ``lora``.
    """
    tokenizer.save(folder / TOKENIZER)
    bundle.write_bundle(folder, weights, config_yaml, {**facts, "family": FAMILY})


def load_bundle(folder: Path) -> ChatterboxBundle:
    """Read a T3.

    Raises:
        BundleError: the folder is no such bundle, is damaged, or does not fit together.
        ConfigError: its settings are none of a T3; names the file and the key.
    """
    folder = resolve_bundle(folder)
    manifest = read_manifest(folder, family=FAMILY)
    model = read_settings(folder, ("model",))["model"]
    if not isinstance(model, dict) or "t3" not in model:
        raise BundleError(f"{folder / CONFIG}: model: has no section 't3'")
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    config = build_config(T3Config, model["t3"], origin)
    adapters = model.get("lora")
    lora = None if adapters is None else build_config(LoraConfig, adapters, origin)
    tokenizer = StockTokenizer.load(file_of(folder, TOKENIZER))
    if tokenizer.n_vocab != config.text_vocab:
        raise BundleError(
            f"{folder}: the tokenizer has {tokenizer.n_vocab} tokens, the model's text_vocab is "
            f"{config.text_vocab}"
        )
    weights = read_weights(folder)
    with sizes_alone():  # sizes that the weights do not have cost no memory
        check_weights(build_model(config, lora), weights, folder)
    placed = read_placed(folder, config.text_vocab)
    return ChatterboxBundle(manifest, config, lora, weights, tokenizer, placed)

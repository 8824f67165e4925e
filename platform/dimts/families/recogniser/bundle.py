"""The bundle of a recogniser: weights, sizes, and the tokenizer beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.bundles import bundle
from dimts.bundles.bundle import (
    CONFIG,
    check_weights,
    file_of,
    read_manifest,
    read_settings,
    read_weights,
    resolve_bundle,
    sizes_alone,
)
from dimts.core.config import build_config
from dimts.families.recogniser.model import Recogniser
from dimts.families.recogniser.settings import ModelConfig
from dimts.text.tokenizer import Tokenizer

FAMILY, TOKENIZER = "recogniser", "tokenizer.json"


class Bundle(NamedTuple):
    """A loaded recogniser: the model on its device, in eval mode; its letters; its mel."""

    model: Recogniser
    tokenizer: Tokenizer
    mel: MelConfig


def write_bundle(
    folder: Path, weights: Mapping[str, Tensor], tokenizer: Tokenizer, config_yaml: str,
    facts: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write a bundle into an existing folder; see `dimts.bundles.bundle.write_bundle`."""
    tokenizer.save(folder / TOKENIZER)
    own = {"family": FAMILY, "tokenizer": tokenizer.fingerprint}
    bundle.write_bundle(folder, weights, config_yaml, {**facts, **own})


def load_bundle(folder: Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a recogniser.

    Raises:
        BundleError: the folder is no bundle of one, is damaged, or does not fit together.
        UserError: settings or tokenizer cannot be read; names file and key.
    """
    folder = resolve_bundle(folder)
    read_manifest(folder, family=FAMILY)
    config, mel = read_sizes(folder)
    tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    weights = read_weights(folder)
    statistics = torch.zeros(mel.n_mels), torch.ones(mel.n_mels)
    with sizes_alone():  # sizes that the weights do not have cost no memory
        check_weights(Recogniser(config, tokenizer.n_vocab, *statistics), weights, folder)
    with torch.random.fork_rng(devices=[]):  # who loads one in training draws on as before
        model = Recogniser(config, tokenizer.n_vocab, *statistics)
    model.load_state_dict(weights)
    return Bundle(model.to(device).eval(), tokenizer, mel)


def read_sizes(folder: Path) -> tuple[ModelConfig, MelConfig]:
    """The model's sizes and the mel that it takes; raises like `load_bundle`."""
    settings = read_settings(folder, ("model", "mel"))
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    return (
        build_config(ModelConfig, settings["model"], origin),
        build_config(MelConfig, settings["mel"], origin),
    )

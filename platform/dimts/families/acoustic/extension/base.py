"""The voice that training starts from, extended with the language that is to be learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.bundles.bundle import CONFIG, WEIGHTS, check_file, read_manifest, read_weights
from dimts.core.config import build_config, flatten
from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.bundle import check_fits, read_sizes, read_tokenizer
from dimts.families.acoustic.extension.config import BaseConfig
from dimts.families.acoustic.extension.rows import extend_rows
from dimts.families.acoustic.model.config import ModelConfig
from dimts.text.language import Language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration, load_transliteration

OURS = ("freeze_until_index", "freeze_blocks.encoder", "freeze_blocks.decoder", "postfilter")
"""Settings of a model that a training from a base chooses; dropout is another."""

HUGGINGFACE = "huggingface_tokenizer.json"
"""What dimts extend writes beside a bundle's own files, and no training does."""

STATISTICS = ("mel_mean_M", "mel_std_M")


class Base(NamedTuple):
    """A base's parts, which fit together; its model is not built.

    Attributes:
        tokenizer: its own, before any extension.
        weights: its model's state.
        model: its sizes.
        mel: the spec of what it predicts.
        sha256: of its weights' file.
        origin: the base that it was made from itself, if any; see `BundleManifest`.
        extended: whether dimts extend wrote it, and no training has come of it yet.
    """

    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    model: ModelConfig
    mel: MelConfig
    sha256: str
    origin: Mapping[str, str]
    extended: bool


def read_base(folder: Path) -> Base:
    """Read a bundle to start from.

    Raises:
        BundleError: it is no bundle, is damaged, or its parts do not fit together.
    """
    manifest = read_manifest(folder)
    model, mel = read_sizes(folder)
    tokenizer = read_tokenizer(folder, manifest)
    weights = read_weights(folder)
    check_fits(model, tokenizer, mel, weights, folder)
    return Base(
        tokenizer,
        weights,
        model,
        mel,
        manifest.sha256[WEIGHTS],
        manifest.origin,
        HUGGINGFACE in manifest.sha256,
    )


def base_sizes(folder: Path) -> ModelConfig:
    """The sizes of a bundle's model; its weights are not read.

    Raises:
        BundleError: it is no bundle, its settings are damaged, or it is not of this family.
    """
    check_file(folder, CONFIG, read_manifest(folder, verify=False).sha256[CONFIG])
    return read_sizes(folder)[0]


def model_from_base(own: ModelConfig, base: ModelConfig) -> ModelConfig:
    """The base's sizes, with what `own` may choose: dropout, what is frozen, pitch if the base
    has none.

    Raises:
        ConfigError: `own` asks for another size; names the key.
    """
    wanted = flatten(own.model_dump(mode="json", exclude_unset=True))
    sizes = base.model_dump(mode="json")
    there = flatten(sizes)
    # What was frozen when the base itself was adapted says nothing of this training.
    sizes |= ModelConfig().model_dump(mode="json", include={"freeze_until_index", "freeze_blocks"})
    if own.pitch and base.pitch is None:  # is learned beside what the base knows
        sizes["pitch"] = own.pitch.model_dump(mode="json")
        there |= flatten({"pitch": sizes["pitch"]})
    for key, value in wanted.items():
        if key in OURS or key.endswith("dropout"):
            section, _, name = key.rpartition(".")
            (sizes[section] if section else sizes)[name] = value
        elif value != there[key]:
            raise ConfigError(
                f"model.{key}={value}: the base has {there[key]}; leave the sizes of the model "
                "out, or start from another base"
            )
    return build_config(ModelConfig, sizes)


def extend_tokenizer(base: Tokenizer, language: Language, text: TextConfig) -> Tokenizer:
    """The base's tokenizer, with `language` added unless it is there.

    Raises:
        UserError: it is there, but read otherwise than `language` and `text` say.
    """
    known = next((k for k in base.spec.languages if k.language.code == language.code), None)
    if known is None:
        return merge(base, language, text)
    if (known.language, known.text.switches) != (language, text.switches):
        raise UserError(
            f"base: reads {language.name} ({language.code}) by other rules: its alphabet or its "
            f"normaliser is not that of text and of the language's file; use the base's rules, or "
            "start from another base"
        )
    return base


def extended_weights(
    base: Base, merged: Tokenizer, config: BaseConfig, seed: int
) -> dict[str, Tensor]:
    """The base's weights, float32, with rows for the tokens that `merged` adds.

    Raises:
        UserError: the new language has no transliteration, which `config.start` needs.
    """
    weights = {name: tensor.to(torch.float32) for name, tensor in base.weights.items()}
    if merged == base.tokenizer:
        return weights
    added = merged.spec.languages[-1].language
    table: Transliteration | None = None
    if config.start in ("transliteration", "nearest"):
        table = load_transliteration(config.transliteration or added.code, added)
    return extend_rows(weights, base.tokenizer, merged, added, config.start, table, seed)

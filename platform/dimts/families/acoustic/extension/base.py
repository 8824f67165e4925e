"""The voice that training starts from, extended with the language that is to be learned."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dimts.bundles.bundle import CONFIG, check_file, read_manifest
from dimts.core.config import build_config, flatten
from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.bundle import Bundle, read_sizes
from dimts.families.acoustic.extension.rows import Extension, extend_rows
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.settings import SPELLED, BaseConfig
from dimts.text.language import Language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import load_transliteration

OURS = ("freeze_until_index", "freeze_blocks.encoder", "freeze_blocks.decoder")
"""Settings of a model that a training from a base chooses; dropout is another."""

HUGGINGFACE = "huggingface_tokenizer.json"
"""What dimts extend writes beside a bundle's own files, and no training does."""


def model_from_base(own: ModelConfig, folder: Path) -> ModelConfig:
    """The sizes of a base, with what `own` may choose: dropout and what is frozen.

    The base's weights are not read.

    Raises:
        BundleError: it is no bundle, its settings are damaged, or it is not of this family.
        ConfigError: `own` asks for another size; names the key.
    """
    check_file(folder, CONFIG, read_manifest(folder, verify=False).sha256[CONFIG])
    sizes = read_sizes(folder)[0].model_dump(mode="json")
    there = flatten(sizes)
    # What was frozen when the base itself was adapted says nothing of this training.
    sizes |= ModelConfig().model_dump(mode="json", include={"freeze_until_index", "freeze_blocks"})
    for key, value in flatten(own.model_dump(mode="json", exclude_unset=True)).items():
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
    base: Bundle, merged: Tokenizer, config: BaseConfig, seed: int
) -> dict[str, Tensor]:
    """The base's weights, float32, with rows for the tokens that `merged` adds.

    Raises:
        UserError: the new language has no transliteration, which `config.start` needs.
    """
    weights = {name: tensor.float() for name, tensor in base.weights.items()}
    if merged == base.tokenizer:
        return weights
    table = None
    if config.start in SPELLED:
        added = merged.spec.languages[-1].language
        table = load_transliteration(config.transliteration or added.code, added)
    return extend_rows(weights, Extension(base.tokenizer, merged, config.start, table, seed))


def origin(name: str, base_sha256: str, start: str, language: str) -> dict[str, str]:
    """Where an adapted voice comes from; see `BundleManifest`."""
    return {"base": name, "base_sha256": base_sha256, "start": start, "language": language}

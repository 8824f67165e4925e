"""A voice as a folder: everything that speaking needs, and nothing that could run code.

    model.safetensors   weights and mel statistics
    config.yaml         the resolved configuration that made it
    tokenizer.json      vocabulary, factors, language data and normaliser settings
    manifest.json       format version, step, metrics, fingerprints, checksums

A checkpoint is such a folder plus ``trainer_state.pt`` (`dimts.training.checkpoint`).
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dimts.audio.mel import MelConfig
from dimts.core.config import Config, build_config
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, MAX_YAML_BYTES, inside, parse_yaml, read_bytes
from dimts.families.acoustic.model.config import ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
WEIGHTS, CONFIG, TOKENIZER, MANIFEST = (
    "model.safetensors",
    "config.yaml",
    "tokenizer.json",
    "manifest.json",
)
PLAIN_NAME = re.compile(r"(?=\.*[^/\\\0.])[^/\\\0]+")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class BundleError(UserError):
    """A bundle that is missing, damaged, of another format, or does not fit together."""


class BundleManifest(Config):
    """What a bundle says of itself.

    Attributes:
        format_version: of the folder's layout.
        dimts_version: that wrote it.
        step, epoch: of the training.
        metrics: of the validation nearest before it.
        features: fingerprint of the features it was trained on.
        origin: the base that it was adapted from, if any: name, checksum of its weights, how
            new rows started, the language that was added.
        tokenizer: fingerprint of the tokenizer.
        sha256: checksum of each of the folder's other files.
    """

    format_version: int
    dimts_version: str
    step: int
    epoch: int
    metrics: dict[str, float]
    features: str
    origin: dict[str, str] = Field(default={})
    tokenizer: str
    sha256: dict[str, str]


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
    """Write a bundle's files into an existing folder; the manifest, with checksums, last.

    Args:
        folder: may already hold further files, which the manifest's checksums include.
        weights: the model's state.
        tokenizer: the model's.
        config_yaml: resolved, with sections ``model`` and ``mel``.
        facts: step, epoch, metrics, features and, of an adapted voice, origin of
            `BundleManifest`.
    """
    from dimts import __version__

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # else nobody but the writer may read it
    tokenizer.save(folder / TOKENIZER)
    manifest = BundleManifest(
        format_version=FORMAT_VERSION,
        dimts_version=__version__,
        tokenizer=tokenizer.fingerprint,
        sha256={f.name: sha256(f) for f in sorted(folder.iterdir()) if f.name != MANIFEST},
        **facts,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


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


def read_manifest(folder: Path, verify: bool = True) -> BundleManifest:
    """The manifest of a bundle, after comparing the checksums it holds.

    Raises:
        BundleError: a file is missing, cut short or changed, or the format is another.
    """
    try:
        text = read_bytes(inside(folder, MANIFEST), MAX_JSON_BYTES)
        manifest = BundleManifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder}: not a voice bundle, it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BundleError(f"{folder / MANIFEST}: cannot be read: {first}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{folder}: bundle format {manifest.format_version}; this version of dimts reads "
            f"format {FORMAT_VERSION}"
        )
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        if name not in manifest.sha256:
            raise BundleError(f"{folder / MANIFEST}: has no checksum of {name}")
    for name, expected in manifest.sha256.items() if verify else ():
        if not PLAIN_NAME.fullmatch(name):
            raise BundleError(
                f"{folder / MANIFEST}: names a file outside the bundle: {name!r:.100}"
            )
        try:
            actual = sha256(file_of(folder, name))
        except OSError as error:  # of the disk
            raise BundleError(f"{folder}: {name} cannot be read: {error.strerror}") from error
        if actual != expected:
            raise BundleError(f"{folder}: {name} is damaged, its checksum differs")
    return manifest


def file_of(folder: Path, name: str) -> Path:
    """A file of a bundle.

    Raises:
        BundleError: it is missing, is no regular file, or is a link that leads out of the folder.
    """
    try:
        return inside(folder, name)
    except OSError:
        raise BundleError(f"{folder}: {name} is missing") from None
    except ValueError as error:
        raise BundleError(f"{folder}: {error}") from error


def load_bundle(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """Read a voice; nothing but its folder is needed, and no pickle is read.

    Raises:
        BundleError: the folder is no bundle, is damaged, or its parts do not fit together.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    settings = read_settings(folder)
    config, mel = read_sizes(folder)
    tokenizer = read_tokenizer(folder, manifest)
    weights = read_weights(folder)
    check_fits(config, tokenizer, mel, weights, folder)
    model = build_model(config, tokenizer, torch.zeros(mel.n_mels), torch.ones(mel.n_mels))
    model.load_state_dict(weights)
    return Bundle(model.to(device).eval(), tokenizer, mel, settings, manifest)


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a bundle, as plain values.

    Raises:
        BundleError: it cannot be read, or has no sections ``model`` and ``mel``.
    """
    try:
        settings = parse_yaml(read_bytes(file_of(folder, CONFIG), MAX_YAML_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / CONFIG}: cannot be read: {error}") from error
    if not isinstance(settings, dict) or not {"model", "mel"} <= settings.keys():
        raise BundleError(f"{folder / CONFIG}: has no sections 'model' and 'mel'")
    return settings


def read_sizes(folder: Path) -> tuple[ModelConfig, MelConfig]:
    """The model's sizes and the mel that it predicts.

    Raises:
        BundleError: see `read_settings`.
        ConfigError: they are no such settings; names the file and the key.
    """
    settings = read_settings(folder)
    origin: dict[tuple[str, ...], str] = {(): str(folder / CONFIG)}
    return (
        build_config(ModelConfig, settings["model"], origin),
        build_config(MelConfig, settings["mel"], origin),
    )


def read_tokenizer(folder: Path, manifest: BundleManifest) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: it is not the one that `manifest` names.
        UserError: it cannot be read.
    """
    tokenizer = Tokenizer.load(file_of(folder, TOKENIZER))
    if tokenizer.fingerprint != manifest.tokenizer:
        raise BundleError(
            f"{folder}: {TOKENIZER} is not the tokenizer that the model was trained with"
        )
    return tokenizer


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of ``model.safetensors``.

    Raises:
        BundleError: the file cannot be read as safetensors.
    """
    try:
        return load_file(file_of(folder, WEIGHTS))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{folder / WEIGHTS}: cannot be read: {first}") from error


def load_weights(model: T3, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy `weights` into `model`, every one of them; raises like `check_weights`."""
    check_weights(model, weights, source)
    model.load_state_dict(dict(weights))


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


def check_weights(model: T3, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Refuse weights that are not those of such a model, which may be one without memory.

    Raises:
        BundleError: a tensor is missing, unexpected, of another shape, or holds no numbers;
            names the first.
    """
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        what = "lacks" if name in own else "has an unexpected"
        raise BundleError(f"{source}: {WEIGHTS} {what} tensor {name}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise BundleError(
                f"{source}: tensor {name} is {tuple(weights[name].shape)}, the tokenizer and "
                f"the configuration ask for {tuple(tensor.shape)}"
            )
        if weights[name].dtype not in FLOATS or not weights[name].isfinite().all():
            raise BundleError(f"{source}: tensor {name} holds values that are no finite numbers")


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

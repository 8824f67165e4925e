"""A trained model as a folder: all that loading it needs, and nothing that could run code.

    model.safetensors   weights
    config.yaml         the resolved configuration that made it
    manifest.json       format version, family, step, metrics, fingerprints, checksums

A family may add files, such as the acoustic one its ``tokenizer.json``. A checkpoint is such a
folder plus ``trainer_state.pt`` (`dimts.training.checkpoint`).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from dimts.core.config import Config
from dimts.core.errors import UserError
from dimts.core.untrusted import MAX_JSON_BYTES, MAX_YAML_BYTES, inside, parse_yaml, read_bytes
from dimts.storage.paths import StoragePath
from dimts.storage.pointer import read_pointer

FORMAT_VERSION = 1
WEIGHTS, CONFIG, MANIFEST = "model.safetensors", "config.yaml", "manifest.json"
BEST_OF_RUN = "checkpoint_best"
"""In a run's folder: the pointer to its best checkpoint."""
MAX_POINTERS = 3
PLAIN_NAME = re.compile(r"(?=\.*[^/\\\0.])[^/\\\0]+")
P = TypeVar("P", Path, StoragePath, Path | StoragePath)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class BundleError(UserError):
    """A bundle that is missing, damaged, of another format, or does not fit together."""


class BundleManifest(Config):
    """What a bundle says of itself.

    Attributes:
        family: of the model; those written before there were several are acoustic.
        metrics: of the validation nearest before it.
        features: fingerprint of the features it was trained on.
        origin: the base that it was adapted from, if any: name, checksum of its weights, how
            new rows started, the language that was added, and of several speakers who was.
        tokenizer: fingerprint of the tokenizer, of families that have one.
        speakers: names of who speaks, in the order of the model's rows; empty if there is one only.
        sha256: checksum of each of the folder's other files.
    """

    format_version: int
    dimts_version: str
    family: str = "acoustic"
    step: int
    epoch: int
    metrics: dict[str, float]
    features: str
    origin: dict[str, str] = Field(default={})
    tokenizer: str = ""
    speakers: tuple[str, ...] = ()
    sha256: dict[str, str]


def write_bundle(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    config_yaml: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a bundle's files into an existing folder; the manifest, with checksums, last.

    The folder may already hold further files, which the checksums include. `facts` are family,
    step, epoch, metrics, features and so on of `BundleManifest`.
    """
    from dimts import __version__

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (folder / CONFIG).write_text(config_yaml, encoding="utf-8")
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # else nobody but the writer may read it
    manifest = BundleManifest(
        format_version=FORMAT_VERSION,
        dimts_version=__version__,
        sha256={f.name: sha256(f) for f in sorted(folder.iterdir()) if f.name != MANIFEST},
        **facts,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def resolve_bundle(path: P, max_pointers: int = MAX_POINTERS) -> P:
    """The bundle's own folder behind a path: of a bundle, of a run (its best one), or of a pointer
    such as ``checkpoint_best``, here or in object storage; the path itself if no bundle is there.

    Raises:
        StorageError: the storage cannot be reached.
    """
    if (path / MANIFEST).exists() or not max_pointers:
        return path
    for pointer, inside_it in ((path / BEST_OF_RUN, ""), (path, ""), (path.parent, path.name)):
        if name := read_pointer(pointer):
            target = pointer.parent / PurePosixPath(name, inside_it)
            return resolve_bundle(target, max_pointers - 1)
    best = path / BEST_OF_RUN  # a link of older versions, or a copy of one
    return best if (best / MANIFEST).exists() else path


def read_manifest(folder: Path, verify: bool = True, family: str = "") -> BundleManifest:
    """The manifest of a bundle, after comparing the checksums it holds.

    Raises:
        BundleError: a file is missing, cut short or changed, or the format is another; or it is of
            another family than the one that is asked for.
    """
    try:
        text = read_bytes(inside(folder, MANIFEST), MAX_JSON_BYTES)
        manifest = BundleManifest.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder}: not a bundle, it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BundleError(f"{folder / MANIFEST}: cannot be read: {first}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{folder}: bundle format {manifest.format_version}; this version of dimts reads "
            f"format {FORMAT_VERSION}"
        )
    if family not in ("", manifest.family):
        raise BundleError(f"{folder}: is of the family {manifest.family}, not {family}")
    for name in (WEIGHTS, CONFIG):
        if name not in manifest.sha256:
            raise BundleError(f"{folder / MANIFEST}: has no checksum of {name}")
    for name, expected in manifest.sha256.items() if verify else ():
        if not PLAIN_NAME.fullmatch(name):
            raise BundleError(
                f"{folder / MANIFEST}: names a file outside the bundle: {name!r:.100}"
            )
        check_file(folder, name, expected)
    return manifest


def check_goes_on(checkpoint: Path, facts: Sequence[tuple[str, str, Any]], way_out: str) -> None:
    """Refuse to go on from what was trained on something else: a base may have been replaced since,
    an alias in MLflow may have moved, or features may have been prepared anew.

    Args:
        facts: what each is called, its name in the manifest or in the manifest's origin, and what
            it is now.
        way_out: what to do instead.

    Raises:
        UserError: names the first that differs.
    """
    manifest = read_manifest(checkpoint, verify=False)
    before = {**manifest.origin, **dict(manifest)}
    for what, key, now in facts:
        if before.get(key) != now:
            raise UserError(
                f"{checkpoint}: was trained with another {what} than there is now; {way_out}, or "
                "remove the run to begin anew"
            )


def check_file(folder: Path, name: str, expected: str) -> None:
    """Compare a file of a bundle with its checksum; raises like `read_manifest`."""
    try:
        actual = sha256(file_of(folder, name))
    except OSError as error:  # of the disk
        raise BundleError(f"{folder}: {name} cannot be read: {error.strerror}") from error
    if actual != expected:
        raise BundleError(f"{folder}: {name} is damaged, its checksum differs")


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


def read_settings(folder: Path, sections: tuple[str, ...] = ()) -> dict[str, Any]:
    """The resolved configuration of a bundle, as plain values.

    Raises:
        BundleError: it cannot be read, or lacks one of the `sections`.
    """
    try:
        settings = parse_yaml(read_bytes(file_of(folder, CONFIG), MAX_YAML_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / CONFIG}: cannot be read: {error}") from error
    if not isinstance(settings, dict) or not settings.keys() >= set(sections):
        names = " and ".join(map(repr, sections))
        raise BundleError(f"{folder / CONFIG}: has no sections {names}")
    return settings


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


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Copy `weights` into `model`, every one of them; raises like `check_weights`."""
    check_weights(model, weights, source)
    model.load_state_dict(dict(weights))


def check_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], source: Path) -> None:
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


@contextmanager
def sizes_alone() -> Iterator[None]:
    """Inside, models are built without memory for their weights, and nothing is drawn for them.

    Drawing would import torch's compiler, which takes longer than to load a voice.
    """
    with torch.device("meta"), _UndrawnWeights():
        yield


class _UndrawnWeights(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == init.__name__:
            return (*args, *kwargs.values())[0]  # the tensor that it fills
        return func(*args, **kwargs)


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

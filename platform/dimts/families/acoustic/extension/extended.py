"""Writing what an extension makes: a bundle to train from, or another system's rows."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.bundles.bundle import CONFIG, sha256
from dimts.bundles.fetch import new_folder
from dimts.core.config import Config, to_yaml
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import TOKENIZER, build_model, load_bundle, write_bundle
from dimts.families.acoustic.extension.base import HUGGINGFACE, origin
from dimts.families.acoustic.extension.embedding_file import embedding_weights
from dimts.families.acoustic.extension.rows import FACTOR, TOKEN, Extension, extend_rows
from dimts.families.acoustic.model.config import ModelConfig
from dimts.features.feature_set import FeatureSet
from dimts.text.huggingface import write_huggingface
from dimts.text.tokenizer import Tokenizer

EMBEDDING = "embedding.safetensors"


class _Settings(Config):
    """What of a run's settings a bundle needs."""

    model: ModelConfig
    mel: MelConfig


def write_extended_bundle(folder: Path, extension: Extension, out: Path) -> None:
    """A base bundle with the merged tokenizer and rows for its new tokens, float32.

    Raises:
        BundleError: the base is no bundle.
        UserError: `out` is not empty.
    """
    base = load_bundle(folder)
    facts = base.manifest.model_dump(include={"step", "epoch", "metrics", "features", "speakers"})
    facts["origin"] = _origin(folder.name, base.sha256, extension)
    weights = extend_rows({n: tensor.float() for n, tensor in base.weights.items()}, extension)
    with new_folder(out) as partial:
        write_huggingface(extension.merged, partial / HUGGINGFACE)
        config_yaml = (folder / CONFIG).read_text(encoding="utf-8")
        write_bundle(partial, weights, extension.merged, config_yaml, facts)


def write_embedding(
    rows_VE: Tensor, source: Path, tensor: str, extension: Extension, out: Path
) -> None:
    """Another system's embedding with rows for the new tokens, as that system would load it.

    A syllable's row is the sum of what it shares and what is its own.

    `tensor` is the name of the embedding in `source`, where its rows are from, and in what is
    written.

    Raises:
        UserError: `out` is not empty.
    """
    n_base, merged = extension.base.n_vocab, extension.merged
    extended = extend_rows({TOKEN: rows_VE}, extension)
    new_VE = extended[TOKEN][n_base:].clone()
    factors_VF = torch.from_numpy(merged.factors[n_base:].copy())
    for i in range(factors_VF.shape[1]):
        new_VE += extended[FACTOR.format(i)][factors_VF[:, i]]
    facts = _origin(source.name, sha256(source), extension)
    with new_folder(out) as partial:
        written = save({tensor: torch.cat((rows_VE, new_VE))}, metadata=facts)
        (partial / EMBEDDING).write_bytes(written)
        write_tokenizers(merged, partial)


def write_bundle_around(
    rows_VE: Tensor,
    source: Path,
    extension: Extension,
    out: Path,
    model: ModelConfig,
    features: FeatureSet,
) -> None:
    """A bundle with another system's embedding in a model that is otherwise untrained.

    Statistics of the mel and lengths are those of the new language's features.

    Raises:
        UserError: the features were prepared with another normaliser, `model` asks for rows of
            another width, or `out` is not empty.
    """
    merged, manifest, width = extension.merged, features.manifest, rows_VE.shape[1]
    if model.encoder.embedding_width not in (None, width):
        raise UserError(
            f"model.encoder.embedding_width={model.encoder.embedding_width}: the rows of "
            f"{source} have {width} channels; leave it out"
        )
    text = merged.spec.languages[-1].text
    if manifest.text.switches != text.switches:
        raise UserError(
            f"the features were prepared with text {manifest.text.model_dump()}, the language is "
            f"read with {text.model_dump()}"
        )
    if width != model.width:
        encoder = model.encoder.model_copy(update={"embedding_width": width})
        model = model.model_copy(update={"encoder": encoder})
    torch.manual_seed(extension.seed)
    mean_M, std_M = torch.tensor(manifest.mel_mean), torch.tensor(manifest.mel_std)
    untrained = build_model(model, merged, mean_M, std_M)
    train = features.split("train")
    n_tokens = sum(len(merged.encode_normalised(text)) for text in train.texts)
    untrained.duration.expect(float(train.n_frames.sum() / n_tokens))
    own = embedding_weights(rows_VE, model.width, extension.seed)
    weights = {**untrained.state_dict(), **extend_rows(own, extension)}
    facts = {
        "step": 0,
        "epoch": 0,
        "metrics": {},
        "features": manifest.fingerprint,
        "origin": _origin(source.name, sha256(source), extension),
    }
    with new_folder(out) as partial:
        write_huggingface(merged, partial / HUGGINGFACE)
        settings = _Settings(model=model, mel=manifest.mel)
        write_bundle(partial, weights, merged, to_yaml(settings), facts)


def write_tokenizers(merged: Tokenizer, folder: Path) -> None:
    """The tokenizer's own JSON and, beside it, Hugging Face's."""
    merged.save(folder / TOKENIZER)
    write_huggingface(merged, folder / HUGGINGFACE)


def _origin(name: str, base_sha256: str, extension: Extension) -> dict[str, str]:
    return origin(name, base_sha256, extension.method, extension.language.code)

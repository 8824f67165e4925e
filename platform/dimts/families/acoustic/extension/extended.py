"""Writing what an extension makes: a bundle to train from, or another system's rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.bundles.bundle import CONFIG, read_manifest, sha256
from dimts.core.config import Config, to_yaml
from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import TOKENIZER, build_model, write_bundle
from dimts.families.acoustic.extension.base import HUGGINGFACE, extended_weights, read_base
from dimts.families.acoustic.extension.config import BaseConfig, StartMethod
from dimts.families.acoustic.extension.embedding_file import embedding_weights
from dimts.families.acoustic.extension.rows import FACTOR, TOKEN, extend_rows
from dimts.families.acoustic.model.config import ModelConfig
from dimts.features.feature_set import FeatureSet
from dimts.text.huggingface import write_huggingface
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration

EMBEDDING = "embedding.safetensors"


class Extension(NamedTuple):
    """What is added to an embedding.

    Attributes:
        base, merged: tokenizer before and after a language was added.
        method: how rows of new tokens start.
        transliteration: of the language, for the methods that need it.
        seed: of what is drawn.
    """

    base: Tokenizer
    merged: Tokenizer
    method: StartMethod
    transliteration: Transliteration | None
    seed: int

    def rows(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` with rows for the new tokens; see `extend_rows`."""
        language = self.merged.spec.languages[-1].language
        return extend_rows(
            weights,
            self.base,
            self.merged,
            language,
            self.method,
            self.transliteration,
            self.seed,
        )


def write_extended_bundle(
    folder: Path, out: Path, merged: Tokenizer, config: BaseConfig, seed: int
) -> None:
    """A base bundle with the merged tokenizer and rows for its new tokens.

    Args:
        folder: of the base.
        out: to write; must not hold anything.
        merged: the base's tokenizer with a language more.
        config: how new rows start.
        seed: of what is drawn.

    Raises:
        BundleError: the base is no bundle.
        UserError: there is no transliteration for `config.start`, or `out` is not empty.
    """
    base, manifest = read_base(folder), read_manifest(folder)
    facts = manifest.model_dump(include={"step", "epoch", "metrics", "features"})
    facts["origin"] = origin(folder.name, base.sha256, config.start, merged)
    weights = extended_weights(base, merged, config, seed)
    with new_folder(out) as partial:
        write_huggingface(merged, partial / HUGGINGFACE)
        config_yaml = (folder / CONFIG).read_text(encoding="utf-8")
        write_bundle(partial, weights, merged, config_yaml, facts)


def write_embedding(
    rows_VE: Tensor, source: Path, tensor: str, extension: Extension, out: Path
) -> None:
    """Another system's embedding with rows for the new tokens, as that system would load it.

    A syllable's row is the sum of what it shares and what is its own.

    Args:
        rows_VE: as read from `source`.
        source: the file that they are from.
        tensor: name of the embedding in it, and in what is written.
        extension: what is added.
        out: folder to write; must not hold anything.
    """
    base, merged = extension.base, extension.merged
    extended = extension.rows({TOKEN: rows_VE})
    new_VE = extended[TOKEN][base.n_vocab :].clone()
    factors_VF = torch.from_numpy(merged.factors[base.n_vocab :].copy())
    for i in range(factors_VF.shape[1]):
        new_VE += extended[FACTOR.format(i)][factors_VF[:, i]]
    facts = origin(source.name, sha256(source), extension.method, merged)
    with new_folder(out) as partial:
        written = save({tensor: torch.cat((rows_VE, new_VE))}, metadata=facts)
        (partial / EMBEDDING).write_bytes(written)
        write_tokenizers(merged, partial)


class _Settings(Config):
    """What of a run's settings a bundle needs."""

    model: ModelConfig
    mel: MelConfig


def write_bundle_around(
    rows_VE: Tensor,
    source: Path,
    extension: Extension,
    out: Path,
    model: ModelConfig,
    features: FeatureSet,
) -> None:
    """A bundle with another system's embedding in a model that is otherwise untrained.

    Args:
        rows_VE: as read from `source`.
        source: the file that they are from.
        extension: what is added.
        out: folder to write; must not hold anything.
        model: sizes; the width of the rows is taken from them.
        features: of the new language; statistics of the mel and lengths are theirs.

    Raises:
        UserError: the features were prepared with another normaliser, or `model` asks for rows
            of another width.
    """
    merged, manifest = extension.merged, features.manifest
    if model.encoder.embedding_width not in (None, rows_VE.shape[1]):
        raise UserError(
            f"model.encoder.embedding_width={model.encoder.embedding_width}: the rows of "
            f"{source} have {rows_VE.shape[1]} channels; leave it out"
        )
    if manifest.text.switches != merged.spec.languages[-1].text.switches:
        raise UserError(
            f"the features were prepared with text {manifest.text.model_dump()}, the language is "
            f"read with {merged.spec.languages[-1].text.model_dump()}"
        )
    if rows_VE.shape[1] != model.width:
        encoder = model.encoder.model_copy(update={"embedding_width": rows_VE.shape[1]})
        model = model.model_copy(update={"encoder": encoder})
    torch.manual_seed(extension.seed)
    mean_M, std_M = torch.tensor(manifest.mel_mean), torch.tensor(manifest.mel_std)
    untrained = build_model(model, merged, mean_M, std_M)
    train = features.split("train")
    n_tokens = sum(len(merged.encode_normalised(text)) for text in train.texts)
    untrained.duration.expect(float(train.n_frames.sum() / n_tokens))
    own = embedding_weights(rows_VE, model.width, extension.seed)
    weights = {**untrained.state_dict(), **extension.rows(own)}
    facts = {
        "step": 0,
        "epoch": 0,
        "metrics": {},
        "features": manifest.fingerprint,
        "origin": origin(source.name, sha256(source), extension.method, merged),
    }
    with new_folder(out) as partial:
        write_huggingface(merged, partial / HUGGINGFACE)
        settings = _Settings(model=model, mel=manifest.mel)
        write_bundle(partial, weights, merged, to_yaml(settings), facts)


def write_tokenizers(merged: Tokenizer, folder: Path) -> None:
    """The tokenizer's own JSON and, beside it, Hugging Face's."""
    merged.save(folder / TOKENIZER)
    write_huggingface(merged, folder / HUGGINGFACE)


def origin(name: str, base_sha256: str, start: StartMethod, merged: Tokenizer) -> dict[str, str]:
    """Where an extended voice comes from."""
    return {
        "base": name,
        "base_sha256": base_sha256,
        "start": start,
        "language": merged.default_language,
    }


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that has its name once all is written.

    Raises:
        UserError: something is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; name another folder, or remove it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

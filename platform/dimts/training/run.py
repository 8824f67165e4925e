"""A run from its settings: features, tokenizer, alignment, model, loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch import distributed as dist

from dimts.alignment.em import ALIGNER_VERSION, align_corpus
from dimts.audio.mel import MelConfig
from dimts.bundle import build_model, write_bundle
from dimts.config import Config, fingerprint
from dimts.errors import UserError
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName
from dimts.machine import n_cores
from dimts.model.t3 import T3, ModelConfig
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.training.batches import Corpus
from dimts.training.config import TrainingConfig
from dimts.training.loop import Callbacks, Job, Result, train


class RunSettings(Config):
    """All that a training process needs; every worker gets the same.

    Attributes:
        features: folder that data preparation wrote.
        run_dir: folder of the run: checkpoints, record, plots.
        text, mel: what the features must have been made with.
        model, training: sizes and the loop.
        config_yaml: the resolved configuration, for the bundle.
    """

    features: Path
    run_dir: Path
    text: TextConfig
    mel: MelConfig
    model: ModelConfig
    training: TrainingConfig
    config_yaml: str


class Data(NamedTuple):
    """Features and what reads them.

    Attributes:
        features: the opened set.
        tokenizer: of the language of the features.
        train, val: splits with token ids.
    """

    features: FeatureSet
    tokenizer: Tokenizer
    train: Corpus
    val: Corpus


def run_training(
    settings: RunSettings, callbacks: Callbacks, device: torch.device | None = None
) -> Result:
    """Train as one worker of one or several; `torch.distributed` says which.

    Raises:
        UserError: features are missing, were made with other settings, or training failed.
    """
    device = device or torch.device("cpu")
    set_threads(settings.training, device)
    data = open_data(settings)
    _check_sample_texts(settings.training, data.tokenizer)
    if settings.training.aligner.fixed_share > 0:
        data.train.durations = fixed_durations(settings, data)
    model = untrained_model(settings, data).to(device)

    def write(folder: Path, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
        facts = {**facts, "features": data.features.manifest.fingerprint}
        write_bundle(folder, weights, data.tokenizer, settings.config_yaml, facts)

    job = Job(settings.training, model, data.train, data.val, settings.run_dir, write)
    return train(job, callbacks)


def untrained_model(settings: RunSettings, data: Data) -> T3:
    """The model as it is before the first step; the same for the same seed."""
    torch.manual_seed(settings.training.seed)
    model = build_model(
        settings.model,
        data.tokenizer,
        torch.tensor(data.features.manifest.mel_mean),
        torch.tensor(data.features.manifest.mel_std),
    )
    n_frames = data.train.utterances.n_frames.sum()
    model.duration.expect(float(n_frames / data.train.n_tokens.sum()))
    return model


def set_threads(config: TrainingConfig, device: torch.device) -> None:
    """Give torch the threads it was asked to use, or this worker's share of the cores."""
    workers = dist.get_world_size() if dist.is_initialized() else 1
    if config.threads or device.type == "cpu":
        torch.set_num_threads(config.threads or max(1, n_cores() // workers))


def open_data(settings: RunSettings) -> Data:
    """Open the features and encode their texts.

    Raises:
        UserError: they are missing, or were made with another mel spec or normaliser.
    """
    features = FeatureSet.open(settings.features)
    manifest = features.manifest
    for section, wanted, found in (
        ("mel", settings.mel, manifest.mel),
        ("text", settings.text, manifest.text),
    ):
        if wanted != found:
            ours, theirs = wanted.model_dump(), found.model_dump()
            key = next(k for k in ours if ours[k] != theirs[k])
            raise UserError(
                f"{settings.features}: was prepared with {section}.{key}={theirs[key]}, the "
                f"configuration says {ours[key]}; run jobs/prepare.py again or change it"
            )
    tokenizer = Tokenizer.from_language(load_language(settings.text.language), settings.text)
    return Data(
        features,
        tokenizer,
        load_corpus(features, tokenizer, "train"),
        load_corpus(features, tokenizer, "val"),
    )


def _check_sample_texts(config: TrainingConfig, tokenizer: Tokenizer) -> None:
    """Now, not at the first sample."""
    for text in config.sample_texts:
        try:
            tokenizer.encode(text)
        except UserError as error:
            raise UserError(f"training.sample_texts: {text!r}: {error}") from error


def load_corpus(features: FeatureSet, tokenizer: Tokenizer, split: SplitName) -> Corpus:
    """A split with its token ids.

    Raises:
        UserError: a text has characters outside the vocabulary.
    """
    utterances = features.split(split)
    tokens = [np.array(tokenizer.encode_normalised(text), np.int64) for text in utterances.texts]
    return Corpus(utterances, tokens)


def fixed_durations(settings: RunSettings, data: Data) -> list[NDArray[np.int32]]:
    """Durations of the training split by the flat-start aligner, computed once for a corpus.

    They are kept beside the features, under the fingerprint of all that they depend on.

    Raises:
        UserError: an utterance has fewer frames than its text has states.
    """
    aligner = settings.training.aligner
    key = fingerprint(
        ALIGNER_VERSION,
        data.features.manifest.fingerprint,
        data.tokenizer.fingerprint,
        settings.model.states_per_token,
        aligner.iterations,
        aligner.prior_frames,
    )
    file = settings.features / "alignments" / f"{key}.safetensors"
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank == 0 and not file.exists():
        durations = _align(settings, data)
        _write_durations(file, data.train.utterances.ids, durations)
    if dist.is_initialized():
        dist.barrier()
    stored = load_file(file)
    return [stored[i] for i in data.train.utterances.ids]


def _align(settings: RunSettings, data: Data) -> list[NDArray[np.int32]]:
    aligner, manifest = settings.training.aligner, data.features.manifest
    mean, std = (np.array(x, np.float32) for x in (manifest.mel_mean, manifest.mel_std))
    try:
        return align_corpus(
            data.train.tokens,
            [(data.train.utterances.mel(i) - mean) / std for i in range(len(data.train))],
            data.tokenizer.factors,
            settings.model.states_per_token,
            aligner.iterations,
            aligner.prior_frames,
            threads=n_cores(),
            pause_ids=data.tokenizer.pause_ids,
        )
    except ValueError as error:
        raise UserError(
            f"{settings.features}: {error}; lower model.states_per_token, or raise "
            f"prepare.min_frames_per_token and run jobs/prepare.py again"
        ) from error


def _write_durations(file: Path, ids: Any, durations: list[NDArray[np.int32]]) -> None:
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    save_file(dict(zip(ids, durations, strict=True)), partial)
    partial.replace(file)

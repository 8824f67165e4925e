"""A run from its settings: data, model, loop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from dimts.bundles.bundle import build_model, load_weights, read_manifest, write_bundle
from dimts.bundles.fetch import local_bundle
from dimts.core.errors import UserError
from dimts.core.machine import n_cores, waits_asleep
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.extension.base import extended_weights
from dimts.families.acoustic.flat_start import ensure_durations, read_durations
from dimts.families.acoustic.freezing import FreezeReport, freeze
from dimts.families.acoustic.model.t3 import T3
from dimts.storage.paths import Folder
from dimts.training.checkpoint import find_latest
from dimts.training.config import TrainingConfig
from dimts.training.job import Callbacks, Job, Result
from dimts.training.machine_choices import read_choices
from dimts.training.settings import RunSettings
from dimts.training.trainer import train


def run_training(
    settings: RunSettings, callbacks: Callbacks, device: torch.device | None = None
) -> Result:
    """Train as one worker of one or several; `torch.distributed` says which.

    Raises:
        UserError: features are missing, were made with other settings, the run was begun with
            another base or vocabulary, or training failed.
    """
    device = device or torch.device("cpu")
    max_threads = set_threads(settings, device)
    data = open_data(settings)
    latest = find_latest(settings.run_dir)
    if latest:
        _check_goes_on(latest, settings, data)
    _check_sample_texts(settings.training, data)
    if settings.training.aligner.fixed_share > 0:
        if not dist.is_initialized() or dist.get_world_size() == 1:  # there is none that waits
            ensure_durations(settings, data)
        data.train.durations = read_durations(settings, data)
    model = initial_model(settings, data).to(device)
    report = freeze(model, data.tokenizer)
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank == 0 and latest is None:
        callbacks.log(parameter_counts(report), 0)

    def write(folder: Path, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
        write_bundle(
            folder,
            weights,
            data.tokenizer,
            settings.config_yaml,
            {**facts, "features": features_fingerprint(data), **_origin(settings, data)},
        )

    job = Job(
        settings.training,
        model,
        data.train,
        data.val,
        settings.run_dir,
        write,
        data.rehearsal,
        settings.base.rehearsal_share if settings.base else 0.0,
        max_threads,
    )
    return train(job, callbacks)


def initial_model(settings: RunSettings, data: Data) -> T3:
    """The model before the first step: the base's, extended, or an untrained one."""
    model = untrained_model(settings, data)
    if data.base and settings.base:
        seed = settings.training.seed
        weights = extended_weights(data.base, data.tokenizer, settings.base, seed)
        load_weights(model, weights, local_bundle(settings.base.bundle))
    return model


def untrained_model(settings: RunSettings, data: Data) -> T3:
    """A model that knows nothing, with the vocabulary of `data`; the same for the same seed."""
    torch.manual_seed(settings.training.seed)
    model = build_model(
        settings.model,
        data.tokenizer,
        torch.from_numpy(data.mel_mean_M),
        torch.from_numpy(data.mel_std_M),
    )
    n_frames = data.train.utterances.n_frames.sum()
    model.duration.expect(float(n_frames / data.train.n_tokens.sum()))
    return model


def parameter_counts(report: FreezeReport) -> dict[str, float]:
    """What is trained and what is frozen, as metrics of step 0."""
    return {
        "parameters/trained": float(report.trained),
        "parameters/frozen": float(report.frozen),
        "parameters/frozen_rows": float(report.rows),
    }


def features_fingerprint(data: Data) -> str:
    """Of all sets of features that are learned from, those that are rehearsed among them."""
    rehearsed = data.base_features if data.rehearsal else ()
    return "+".join(f.manifest.fingerprint for f in (*data.features, *rehearsed))


def _origin(settings: RunSettings, data: Data) -> dict[str, Any]:
    if not (data.base and settings.base):
        return {}
    if data.base.extended and data.base.origin.get("language") == data.language:
        return {"origin": dict(data.base.origin)}
    return {
        "origin": {
            "base": Path(settings.base.bundle).name,
            "base_sha256": data.base.sha256,
            "start": settings.base.start,
            "language": data.language,
        }
    }


def _check_goes_on(checkpoint: Path, settings: RunSettings, data: Data) -> None:
    """A base may have been replaced since, an alias in MLflow may have moved, or features may have
    been prepared anew: ids, mel statistics and batches would not be those that the weights were
    trained with."""
    manifest = read_manifest(checkpoint, verify=False)
    base = _origin(settings, data).get("origin", {}).get("base_sha256")
    bases = {base, _older_origin(data) or base}
    for what, before, now in (
        ("vocabulary", manifest.tokenizer, {data.tokenizer.fingerprint}),
        ("set of features", manifest.features, {features_fingerprint(data)}),
        ("base", manifest.origin.get("base_sha256"), bases),
    ):
        if before not in now:
            raise UserError(
                f"{checkpoint}: was trained with another {what} than there is now; "
                f"{go_on_from(checkpoint.parent)}, or remove the run to begin anew"
            )


def go_on_from(run_dir: Folder) -> str:
    """What to do where a run cannot go on as it is: a new one that starts from its weights."""
    return (
        f"to go on from its weights give --set run.name=NEW --set base.bundle={run_dir} "
        "--set training.aligner.fixed_share=0"
    )


def _older_origin(data: Data) -> str | None:
    """What runs begun earlier have of a base that was adapted to the language: that base's own."""
    if data.base is None or data.tokenizer != data.base.tokenizer:
        return None
    origin = data.base.origin
    return origin.get("base_sha256") if origin.get("language") == data.language else None


def set_threads(settings: RunSettings, device: torch.device) -> int:
    """Give torch the threads it was asked to use, or those that the run has found out before.

    Returns:
        How many there may be where that is still to be found out, else 0; see `Job.max_threads`.
    """
    cores = max(1, n_cores() // workers_here())
    if threads := settings.training.threads:
        torch.set_num_threads(threads)
        return 0
    if device.type != "cpu":
        return 0
    choices = read_choices(settings.run_dir)
    found_out = choices.threads if choices else 0
    if not waits_asleep():
        cores = 1
    torch.set_num_threads(min(found_out, cores) if found_out else 1)
    return 0 if found_out or cores == 1 else cores


def workers_here() -> int:
    """Workers of this run that share this machine's cores, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or (
        dist.get_world_size() if dist.is_initialized() else 1
    )


def _check_sample_texts(config: TrainingConfig, data: Data) -> None:
    """Now, not at the first sample."""
    for text in config.sample_texts:
        try:
            data.tokenizer.encode(text, data.language)
        except UserError as error:
            raise UserError(f"training.sample_texts: {text!r}: {error}") from error

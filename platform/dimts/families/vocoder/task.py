"""What a vocoder's training hands to the trainer: data, model, two objectives, bundle, samples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimts.bundles.bundle import WEIGHTS, load_weights, read_manifest, read_weights
from dimts.bundles.fetch import local_bundle
from dimts.core.errors import UserError
from dimts.families.registry import check_same_mel
from dimts.families.vocoder.bundle import load_bundle, write_bundle
from dimts.families.vocoder.data import Data, open_data
from dimts.families.vocoder.losses import SpectralDistance
from dimts.families.vocoder.metrics import SELECTION
from dimts.families.vocoder.model.discriminator import Discriminators
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.families.vocoder.objectives import DiscriminatorObjective, GeneratorObjective
from dimts.families.vocoder.samples import make_samples
from dimts.families.vocoder.settings import VocoderSettings
from dimts.training.checkpoint import find_latest
from dimts.training.task import Objective, Task


def vocoder_task(settings: VocoderSettings, device: torch.device) -> Task:
    """The task of a run's settings.

    Raises:
        UserError: features are missing or were made with other settings, or the run was begun
            with others or another base.
    """
    data = open_data(settings)
    if latest := find_latest(settings.run_dir):
        _check_goes_on(latest, settings, data)
    training = settings.training
    model = initial_model(settings, data).to(device)
    discriminators = Discriminators(training.discriminator.model).to(device)
    distance = SpectralDistance(settings.mel, training.discriminator.model.windows).to(device)

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        own = {"features": data.fingerprint, "origin": _origin(settings)}
        write_bundle(folder, weights, settings.config_yaml, {**facts, **own})

    generator = GeneratorObjective(model, discriminators, training, distance)
    critic = DiscriminatorObjective(discriminators, model, training, distance)
    start = training.discriminator.start_step
    return Task(
        model=model,
        objectives=(
            Objective("generator", generator, training.optimizer),
            Objective("discriminator", critic, training.discriminator.optimizer, start),
        ),
        train=data.train,
        val=data.val,
        selection=SELECTION,
        unit="frames",
        write_bundle=write,
        sample=partial(make_samples, data, model),
        counts={
            "parameters/trained": _count(model, True),
            "parameters/frozen": _count(model, False),
            "parameters/discriminators": _count(discriminators, True),
        },
    )


def initial_model(settings: VocoderSettings, data: Data) -> Vocoder:
    """The model before the first step: the base's, or an untrained one; by the seed."""
    torch.manual_seed(settings.training.seed)
    model = Vocoder(settings.model, settings.mel)
    model.mel_mean.fill_(data.mel_mean)
    model.mel_std.fill_(data.mel_std)
    if settings.base:
        folder = local_bundle(settings.base.bundle)
        base = load_bundle(folder).model
        check_same_mel(settings.base.bundle, base.mel, settings.mel)
        load_weights(model, read_weights(folder), folder)
    return model


def _origin(settings: VocoderSettings) -> dict[str, str]:
    origin: dict[str, str] = {}
    base = settings.base.bundle if settings.base else None
    for what, bundle in (("base", base), ("voice", settings.training.voice)):
        if bundle:
            manifest = read_manifest(local_bundle(bundle), verify=False)
            origin |= {what: Path(bundle).name, f"{what}_sha256": manifest.sha256[WEIGHTS]}
    return origin


def _check_goes_on(checkpoint: Path, settings: VocoderSettings, data: Data) -> None:
    manifest, origin = read_manifest(checkpoint, verify=False), _origin(settings)
    for what, before, now in (
        ("set of features", manifest.features, data.fingerprint),
        ("base", manifest.origin.get("base_sha256"), origin.get("base_sha256")),
        ("voice", manifest.origin.get("voice_sha256"), origin.get("voice_sha256")),
    ):
        if before != now:
            raise UserError(
                f"{checkpoint}: was trained with another {what} than there is now; "
                f"{go_on_from(checkpoint.parent)}, or remove the run to begin anew"
            )


def go_on_from(run_dir: str | Path) -> str:
    """What to do where a run cannot go on as it is: a new one that starts from its weights."""
    return f"to go on from its weights give --set run.name=NEW --set base.bundle={run_dir}"


def _count(module: torch.nn.Module, trained: bool) -> float:
    return float(sum(p.numel() for p in module.parameters() if p.requires_grad == trained))

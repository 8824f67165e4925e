"""What a vocoder's training hands to the trainer: data, model, two objectives, bundle, samples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimts.bundles.bundle import WEIGHTS, check_goes_on, load_weights, read_manifest, read_weights
from dimts.bundles.fetch import local_bundle
from dimts.families.protocol import go_on_from
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
from dimts.training.task import Objective, Task, count_parameters


def vocoder_task(settings: VocoderSettings, device: torch.device) -> Task:
    """The task of a run's settings.

    Raises:
        UserError: features are missing or were made with other settings, or the run was begun
            with others or another base.
    """
    data = open_data(settings)
    if latest := find_latest(settings.run_dir):
        origin = _origin(settings)
        keys = {"base": "base_sha256", "voice": "voice_sha256"}
        facts = [(what, key, origin.get(key)) for what, key in keys.items()]
        facts.insert(0, ("set of features", "features", data.fingerprint))
        check_goes_on(latest, facts, go_on_from(latest.parent))
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
    counts = count_parameters(model)
    counts["discriminators"] = count_parameters(discriminators)["trained"]
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
        counts={f"parameters/{what}": float(n) for what, n in counts.items()},
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

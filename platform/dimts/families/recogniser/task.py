"""What a recogniser's training hands to the trainer: data, model, loss, bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimts.bundles.bundle import WEIGHTS, check_goes_on, read_manifest
from dimts.bundles.fetch import local_bundle
from dimts.families.protocol import go_on_from
from dimts.families.recogniser.bundle import load_bundle, write_bundle
from dimts.families.recogniser.data import Data, open_data
from dimts.families.recogniser.metrics import SELECTION
from dimts.families.recogniser.model import CtcObjective, Recogniser
from dimts.families.recogniser.settings import RecogniserSettings
from dimts.training.checkpoint import find_latest
from dimts.training.task import Objective, Task, count_parameters

BASE_SHA256 = "base_sha256"


def recogniser_task(settings: RecogniserSettings, device: torch.device) -> Task:
    """The task of a run's settings.

    Raises:
        UserError: features are missing or were made with other settings, or the run was begun
            with others or another base.
    """
    data = open_data(settings)
    fingerprint, origin = data.features.manifest.fingerprint, _origin(settings)
    if latest := find_latest(settings.run_dir):
        facts = (("set of features", "features", fingerprint),
                 ("base", BASE_SHA256, origin.get(BASE_SHA256)))  # fmt: skip
        check_goes_on(latest, facts, go_on_from(latest.parent))
    model = initial_model(settings, data).to(device)

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        own = {"features": fingerprint, "origin": origin}
        write_bundle(folder, weights, data.tokenizer, settings.config_yaml, {**facts, **own})

    objective = CtcObjective(model, settings.training.amp)
    return Task(
        model=model,
        objectives=(Objective("ctc", objective, settings.training.optimizer),),
        train=data.train,
        val=data.val,
        selection=SELECTION,
        unit="frames",
        write_bundle=write,
        counts={f"parameters/{what}": float(n) for what, n in count_parameters(model).items()},
    )


def _origin(settings: RecogniserSettings) -> dict[str, str]:
    if not settings.base:
        return {}
    manifest = read_manifest(local_bundle(settings.base.bundle), verify=False)
    return {"base": Path(settings.base.bundle).name, BASE_SHA256: manifest.sha256[WEIGHTS]}


def initial_model(settings: RecogniserSettings, data: Data) -> Recogniser:
    """The model before the first step, by the seed: untrained, or the base's, whose letters keep
    their rows."""
    torch.manual_seed(settings.training.seed)
    manifest = data.features.manifest
    statistics = (torch.tensor(values) for values in (manifest.mel_mean, manifest.mel_std))
    model = Recogniser(settings.model, data.tokenizer.n_vocab, *statistics)
    if settings.base:
        base, tokenizer, _ = load_bundle(local_bundle(settings.base.bundle))
        weights = base.state_dict()
        row = {token: index for index, token in enumerate((*tokenizer.tokens, None))}
        for name in ("last.weight", "last.bias"):
            own = model.state_dict()[name].clone()
            for index, token in enumerate((*data.tokenizer.tokens, None)):  # None is the blank
                if token in row:
                    own[index] = weights[name][row[token]]
            weights[name] = own
        model.load_state_dict(weights)
    return model

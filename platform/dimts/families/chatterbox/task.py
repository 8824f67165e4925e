"""What a T3's training hands to the trainer: data, model, loss, bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimts.bundles.bundle import check_goes_on
from dimts.families.chatterbox.bundle import write_bundle
from dimts.families.chatterbox.data import Data, open_data
from dimts.families.chatterbox.metrics import SELECTION
from dimts.families.chatterbox.model.head_start import look_at_the_text
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.objective import SpeechObjective
from dimts.families.chatterbox.placed import write_placed
from dimts.families.chatterbox.settings import ChatterboxSettings
from dimts.families.chatterbox.spoken_text import write_language
from dimts.families.chatterbox.training_parts import set_trained
from dimts.families.chatterbox.voices import write_voices
from dimts.families.protocol import go_on_from
from dimts.training.checkpoint import find_latest
from dimts.training.task import Objective, Task

BASE_SHA256 = "base_sha256"


def chatterbox_task(settings: ChatterboxSettings, device: torch.device) -> Task:
    """The task of a run's settings.

    Raises:
        UserError: features are missing or were made with other settings, or the run was begun
            with others or another base.
    """
    data = open_data(settings)
    if latest := find_latest(settings.run_dir):
        facts = (
            ("set of features", "features", data.fingerprint),
            ("base", BASE_SHA256, data.base and data.base.sha256),
        )
        check_goes_on(latest, facts, go_on_from(latest.parent))
    model = initial_model(settings, data)
    # What `dimts extend` gave to the language on a base; without one no row is new or old.
    placed = frozenset(data.placed.get("rows", {}).values()) if data.base else frozenset[int]()
    counts = set_trained(model, settings.model, placed)
    model.tfmr.checkpointing = settings.training.checkpointing
    model.to(device)

    def write(folder: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        write_voices(folder, data.voices, data.train)
        write_language(folder, data.language, data.text)
        write_placed(folder, data.placed)
        own = {"features": data.fingerprint, "origin": _origin(settings, data)}
        write_bundle(folder, weights, data.tokenizer, settings.config_yaml, {**facts, **own})

    objective = SpeechObjective(model, settings.training)
    return Task(
        model=model,
        objectives=(Objective("speech", objective, settings.training.optimizer),),
        train=data.train,
        val=data.val,
        selection=SELECTION,
        unit="tokens",
        write_bundle=write,
        rehearsal=data.rehearsal,
        rehearsal_share=settings.base.rehearsal_share if settings.base else 0.0,
        counts={
            **{f"parameters/{what}": float(n) for what, n in counts.items()},
            "utterances/without_another_of_the_speaker": float(data.train.n_alone),
        },
    )


def initial_model(settings: ChatterboxSettings, data: Data) -> T3:
    """The model before the first step: the base's, or an untrained one that knows how fast the
    corpus is read; by the seed."""
    torch.manual_seed(settings.training.seed)
    model = T3(settings.model.t3)
    if data.base:
        model.load_state_dict(dict(data.base.weights))
    else:
        look_at_the_text(model, data.train.pace)
    return model


def _origin(settings: ChatterboxSettings, data: Data) -> dict[str, str]:
    if not (settings.base and data.base):
        return {}
    return {"base": Path(settings.base.bundle).name, BASE_SHA256: data.base.sha256}

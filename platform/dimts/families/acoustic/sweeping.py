"""What the trials of a sweep of voices share, and what is measured of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dimts.core.errors import ConfigError, UserError
from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.data import Data, fixed_durations, open_data
from dimts.families.acoustic.freezing import frozen_rows
from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import base_metrics
from dimts.families.acoustic.metrics import FORGETTING, SPOKEN
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model
from dimts.families.protocol import SharedInputs

BASE_MCD = "base_mcd"
"""Mel-cepstral distortion of the base's languages before any training, in dB, on the sentences
that forgetting is measured on."""


def shared_inputs(settings: Sequence[AcousticSettings], measured: Sequence[str]) -> SharedInputs:
    """See `dimts.families.protocol.Family.shared_inputs`."""
    first = settings[0]
    data = open_data(first)
    for of_one in settings:
        try:
            frozen_rows(of_one.model.freeze_until_index, data.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"sweep.space: {error}") from error
    forgets = FORGETTING.name in measured
    if forgets and first.base is None:
        raise UserError(
            f"sweep.objectives: {FORGETTING.name} needs a base; see start/finetune.yaml"
        )
    if forgets and not any(len(features.split("val")) for features in data.base_features):
        raise UserError(
            f"sweep.objectives: {FORGETTING.name} cannot be measured: base.features has no "
            "validation sentences; name the base's prepared features, or take another objective"
        )

    def prepare() -> dict[str, float]:
        if first.training.aligner.fixed_share > 0:
            fixed_durations(first, data)  # by one process, before several would
        return {BASE_MCD: _base_mcd(first, data, initial_model(first, data))} if forgets else {}

    facts = {
        "set of features": "+".join(f.manifest.fingerprint for f in data.features),
        "set of the base's features": "+".join(f.manifest.fingerprint for f in data.base_features),
        "vocabulary": data.tokenizer.fingerprint,
        "base": data.base.sha256 if data.base else "",
    }
    return SharedInputs(facts, prepare)


def measure(
    settings: AcousticSettings,
    bundle: Path,
    names: Sequence[str],
    shared: Mapping[str, float],
    device: torch.device,
) -> dict[str, float]:
    """See `dimts.families.protocol.Family.measure`."""
    metrics: dict[str, float] = {}
    if not names:
        return metrics
    data, model = open_data(settings), load_bundle(bundle, device).model
    if SPOKEN.name in names:
        metrics[SPOKEN.name] = aggregate_metrics(evaluate(model, data.val))["mcd"]
    if FORGETTING.name in names:
        metrics[FORGETTING.name] = _base_mcd(settings, data, model) - shared[BASE_MCD]
    return metrics


def _base_mcd(settings: AcousticSettings, data: Data, model: T3) -> float:
    """Distortion of the base's languages on their validation sentences, in dB."""
    assert settings.base is not None
    return base_metrics(model, data, settings.base.held_out, split="val")["forgetting/mcd"]

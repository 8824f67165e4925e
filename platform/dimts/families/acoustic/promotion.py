"""Registered voices on held-out sentences: what promotion compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import Voice, load_bundle
from dimts.families.acoustic.data import Data, first_difference, language_of, open_data
from dimts.families.acoustic.dataset import load_corpus
from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import base_metrics
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model
from dimts.families.protocol import Measured
from dimts.features.feature_set import FeatureSet

FORGETTING = "forgetting/mcd"


def for_promotion(
    settings: AcousticSettings, device: torch.device
) -> Callable[[Path, str, bool], Measured]:
    """See `dimts.families.protocol.Family.for_promotion`.

    The candidate is refused where its mel, its texts or its base are not those of `settings`.
    """
    data = open_data(settings)
    if not len(data.features[0].split("test")):
        raise UserError(f"{data.features[0].folder}: the test split is empty")
    limit = settings.base.held_out if settings.base else 0
    before: dict[str, float] = {}
    if data.base_features:
        before = base_metrics(initial_model(settings, data).to(device), data, limit)
        if not before:
            raise UserError("base.features: no test utterances to measure forgetting on")

    def measure(bundle: Path, what: str, is_candidate: bool) -> Measured:
        voice = load_bundle(bundle, device)
        for features in data.features:
            check_fits(voice, features, what)
        if before and is_candidate:
            _check_origin(voice, data, what)
        rows = evaluate(voice.model, load_corpus(data.features[0], voice.tokenizer, "test"))
        metrics = aggregate_metrics(rows)
        knows_base = {*map(language_of, data.base_features)} <= {*voice.tokenizer.languages}
        if before and (is_candidate or knows_base):
            own = data._replace(tokenizer=voice.tokenizer)
            after = base_metrics(voice.model, own, limit)[FORGETTING]
            metrics |= {"base_mcd": after, "forgetting": after - before[FORGETTING]}
        unmeasured = []
        if "base_sha256" in voice.manifest.origin and "forgetting" not in metrics:
            unmeasured.append(
                "it was adapted from a base, and what it forgot is not measured; configure base "
                "and base.features, or give --without-forgetting"
            )
        ids, values = [row.id for row in rows], np.array([row.mcd for row in rows])
        return Measured(ids, values, metrics, unmeasured)

    return measure


def check_fits(voice: Voice, features: FeatureSet, what: str) -> None:
    """Refuse a voice that says another mel, or reads texts by other rules, than a set has.

    Raises:
        UserError: names the first difference.
    """
    manifest, code = features.manifest, language_of(features)
    known = {k.language.code: k.text for k in voice.tokenizer.spec.languages}
    if code not in known:
        raise UserError(f"{what}: does not speak {code}, which {features.folder} is of")
    own = {"mel": voice.mel.model_dump(), "text": known[code].switches}
    there = {"mel": manifest.mel.model_dump(), "text": manifest.text.switches}
    if found := first_difference(own, there):
        key, value, other = found
        raise UserError(
            f"{what}: was trained with {key}={value}, {features.folder} was prepared with "
            f"{other}; give the configuration of this voice, and voices that differ in it "
            "another --name"
        )


def _check_origin(voice: Voice, data: Data, what: str) -> None:
    """Refuse a voice of another base than the configured one, of which what it forgot says
    nothing."""
    assert data.base is not None
    # A base that dimts extend wrote hands on where it came from itself.
    allowed = {data.base.sha256, data.base.manifest.origin.get("base_sha256")} - {None}
    origin = voice.manifest.origin
    if origin.get("base_sha256") not in allowed:
        raise UserError(
            f"{what}: was adapted from {origin.get('base', 'no base')}, not from base.bundle; "
            "give the configuration of this voice"
        )

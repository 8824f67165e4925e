"""Registered voices on held-out sentences: what promotion compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dimts.core.errors import UserError
from dimts.families.acoustic.bundle import Bundle, load_bundle
from dimts.families.acoustic.corpora import load_corpus
from dimts.families.acoustic.data import Data, open_data
from dimts.families.acoustic.held_out import aggregate_metrics, evaluate
from dimts.families.acoustic.measurements import base_metrics
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model
from dimts.families.protocol import Measured
from dimts.features.feature_set import FeatureSet


class TestSplit:
    """Sentences that voices are measured on: the test splits that a run's settings name.

    Args:
        settings: of a run; its features and base are meant.
        device: that voices are measured on.

    Raises:
        UserError: the features are missing, do not fit the configuration, or the test split
            is empty.
    """

    __test__ = False  # pytest takes its name for one of its own

    def __init__(self, settings: AcousticSettings, device: torch.device) -> None:
        self._device = device
        self._data = open_data(settings)
        self._limit = settings.base.held_out if settings.base else 0
        self._base: dict[str, float] = {}
        if self._data.base_features:
            base = initial_model(settings, self._data).to(device)
            self._base = base_metrics(base, self._data, self._limit, "test")
            if not self._base:
                raise UserError("base.features: no test utterances to measure forgetting on")
        if not len(self._data.features[0].split("test")):
            raise UserError(f"{self._data.features[0].folder}: the test split is empty")

    def measure(self, bundle: Path, what: str, is_candidate: bool) -> Measured:
        """Let a voice speak.

        Args:
            bundle: of the voice.
            what: it is called in errors.
            is_candidate: refuse it if its forgetting cannot be measured.

        Raises:
            UserError: its mel or its texts are not those of the features, or it comes from
                another base.
        """
        voice = load_bundle(bundle, self._device)
        for features in self._data.features:
            check_fits(voice, features, what)
        rows = evaluate(voice.model, load_corpus(self._data.features[0], voice.tokenizer, "test"))
        metrics = aggregate_metrics(rows)
        if self._base and is_candidate:
            check_origin(voice, self._data, what)
        if self._base and (is_candidate or self._knows_base(voice)):
            data = self._data._replace(tokenizer=voice.tokenizer)
            after = base_metrics(voice.model, data, self._limit, "test")["forgetting/mcd"]
            metrics |= {"base_mcd": after, "forgetting": after - self._base["forgetting/mcd"]}
        unmeasured = []
        if "base_sha256" in voice.manifest.origin and "forgetting" not in metrics:
            unmeasured.append(
                "it was adapted from a base, and what it forgot is not measured; configure base "
                "and base.features, or give --without-forgetting"
            )
        ids, values = [row.id for row in rows], np.array([row.mcd for row in rows])
        return Measured(ids, values, metrics, unmeasured)

    def _knows_base(self, voice: Bundle) -> bool:
        known = {k.language.code for k in voice.tokenizer.spec.languages}
        return all(f.manifest.corpus.languages[0] in known for f in self._data.base_features)


def check_fits(voice: Bundle, features: FeatureSet, what: str) -> None:
    """Refuse a voice that says another mel, or reads texts by other rules, than a set has.

    Raises:
        UserError: names the first difference.
    """
    manifest, code = features.manifest, features.manifest.corpus.languages[0]
    known = {k.language.code: k.text for k in voice.tokenizer.spec.languages}
    if code not in known:
        raise UserError(f"{what}: does not speak {code}, which {features.folder} is of")
    pairs = (("mel", voice.mel, manifest.mel), ("text", known[code], manifest.text))
    for section, ours, theirs in pairs:
        there = theirs.model_dump()
        for key, value in ours.model_dump().items():
            # A language's name may be that of a file, which lies elsewhere by now.
            if key != "language" and value != there[key]:
                raise UserError(
                    f"{what}: was trained with {section}.{key}={value}, {features.folder} was "
                    f"prepared with {there[key]}; give the configuration of this voice, and voices "
                    "that differ in it another --name"
                )


def check_origin(voice: Bundle, data: Data, what: str) -> None:
    """Refuse a voice that was not adapted from the configured base.

    Raises:
        UserError: so it is; what it forgot of this base says nothing.
    """
    assert data.base is not None
    # A base that dimts extend wrote hands on where it came from itself.
    allowed = {data.base.sha256, data.base.origin.get("base_sha256")} - {None}
    origin = voice.manifest.origin
    if origin.get("base_sha256") not in allowed:
        raise UserError(
            f"{what}: was adapted from {origin.get('base', 'no base')}, not from base.bundle; "
            "give the configuration of this voice"
        )

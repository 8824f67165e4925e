"""What a voice is measured by, on held-out sentences: after a training, as a trial of a sweep, and
as a registered model that may be promoted.

A voice that was adapted is measured beside the base that it started from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dimts.core.config import first_difference
from dimts.core.errors import ConfigError, UserError
from dimts.core.metric import of_speaker
from dimts.evaluation.judges.voice import judged_metrics
from dimts.families.acoustic.bundle import Bundle, load_bundle
from dimts.families.acoustic.data import Data, language_of, open_data
from dimts.families.acoustic.dataset import draw, load_corpus
from dimts.families.acoustic.flat_start import ensure_durations
from dimts.families.acoustic.freezing import frozen_rows
from dimts.families.acoustic.held_out import UtteranceMetrics, aggregate_metrics, evaluate
from dimts.families.acoustic.judged import (
    check_judges,
    check_objectives,
    deciding,
    hear,
    heard_metrics,
)
from dimts.families.acoustic.metrics import FORGETTING, SPOKEN
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model, untrained_model
from dimts.families.protocol import Measured, SharedInputs
from dimts.features.feature_set import FeatureSet
from dimts.features.manifest import SplitName

HELD_OUT: tuple[SplitName, ...] = ("val", "test")
FORGOTTEN_MCD = "forgetting/mcd"
FORGOTTEN = ("mcd", "aligned_mel_mse", "length_ratio")
OF_SPEAKER = ("mcd", "length_ratio", "utterances")
BASE_MCD = "base_mcd"
"""Mel-cepstral distortion of the base's languages before any training, in dB, on the sentences
that forgetting is measured on."""

Rows = dict[str, list[UtteranceMetrics]]
"""Language -> figures of its sentences, of whatever set they are."""

log = logging.getLogger(__name__)


def held_out(
    settings: AcousticSettings, bundle: Path, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of a run's bundle, and the base's own on what forgetting is measured on.

    Returns:
        ``mcd``-like keys under ``val/`` and ``test/``, see `held_out.aggregate_metrics`, beside an
        untrained model's; with several languages the MCD of each, as ``test/mcd_es``, and with
        several speakers what each has, as ``test/speaker/NAME/mcd``. Where there are features of
        a base, `base_metrics` of the test split and ``forgetting/mcd_change``.
        The second ones are `base_metrics` before the adaptation, likewise.
    """
    data, model = open_data(settings), load_bundle(bundle, device).model
    untrained = untrained_model(settings, data).to(device)
    metrics: dict[str, float] = {}
    for split in HELD_OUT:
        rows = _evaluate_sets(model, data.features, data, split)
        if not rows:
            continue
        values = _together(rows)
        values["untrained_mcd"] = _together(_evaluate_sets(untrained, data.features, data, split))[
            "mcd"
        ]
        values["mcd_of_untrained"] = values["mcd"] / values["untrained_mcd"]
        if len(rows) > 1:
            values |= _of_each(rows)
        values |= by_speaker([row for of_one in rows.values() for row in of_one], data.speakers)
        metrics |= {f"{split}/{key}": value for key, value in values.items()}
    if settings.judges.names:
        heard = heard_metrics(settings, data, bundle, device)
        metrics |= {f"test/{key}": value for key, value in heard.items()}
    if not (settings.base and data.base_features):
        return metrics, {}
    before = base_metrics(
        initial_model(settings, data).to(device), data, limit=settings.base.held_out
    )
    if not before:
        log.warning("base.features: no test utterances, so what is forgotten is not measured")
        return metrics, {}
    metrics |= base_metrics(model, data, settings.base.held_out)
    for key in (FORGOTTEN_MCD, "forgetting/aligned_mel_mse"):
        metrics[f"{key}_change"] = metrics[key] - before[key]
    return metrics, before


def base_metrics(model: T3, data: Data, limit: int, split: SplitName = "test") -> dict[str, float]:
    """``forgetting/mcd``, ``forgetting/mcd_es`` and the like: a model on the base's languages.

    At most `limit` utterances of each set are measured; where there are none, nothing is. What
    settings are chosen by must not be of the test split.
    """
    rows = _evaluate_sets(model, data.base_features, data, split, limit)
    if not rows:
        return {}
    together = _together(rows)
    values = _of_each(rows) | {key: together[key] for key in FORGOTTEN}
    return {f"forgetting/{key}": value for key, value in values.items()}


def shared_inputs(settings: Sequence[AcousticSettings], measured: Sequence[str]) -> SharedInputs:
    """See `dimts.families.protocol.Family.shared_inputs`."""
    first = settings[0]
    data = open_data(first)
    for of_one in settings:
        try:
            frozen_rows(of_one.model.freeze_until_index, data.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"sweep.space: {error}") from error
    check_objectives(first, {*measured})
    check_judges(first)
    forgets = FORGETTING.name in measured
    if forgets and not any(len(features.split("val")) for features in data.base_features):
        raise UserError(
            f"sweep.objectives: {FORGETTING.name} needs a base and validation sentences in "
            "base.features, see start/finetune.yaml; or take another objective"
        )

    def prepare() -> dict[str, float]:
        if first.training.aligner.fixed_share > 0:
            ensure_durations(first, data)  # by one process, before several would
        return {BASE_MCD: _base_mcd(first, data, initial_model(first, data))} if forgets else {}

    facts = {
        "set of features": "+".join(f.manifest.fingerprint for f in data.features),
        "set of the base's features": "+".join(f.manifest.fingerprint for f in data.base_features),
        "vocabulary": data.tokenizer.fingerprint,
        "base": data.base.sha256 if data.base else "",
        "judges.chooses": first.judges.chooses,
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
    if not names:
        return {}
    metrics = {}
    data, model = open_data(settings), load_bundle(bundle, device).model
    if SPOKEN.name in names:
        metrics[SPOKEN.name] = aggregate_metrics(evaluate(model, data.val))["mcd"]
    if FORGETTING.name in names:
        metrics[FORGETTING.name] = _base_mcd(settings, data, model) - shared[BASE_MCD]
    if {*names} - metrics.keys():
        heard = judged_metrics(hear(settings, data, bundle, "val", device))
        metrics |= {key: v for name, v in heard.items() if (key := f"val/{name}") in names}
    return metrics


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
        own = data._replace(tokenizer=voice.tokenizer, speakers=voice.speakers)
        corpus = load_corpus(data.features[0], own.tokenizer, "test", own.speakers)
        rows = evaluate(voice.model, corpus)
        metrics = aggregate_metrics(rows)
        knows_base = {*map(language_of, data.base_features)} <= {*voice.tokenizer.languages}
        if before and (is_candidate or knows_base):
            after = base_metrics(voice.model, own, limit)[FORGOTTEN_MCD]
            metrics |= {"base_mcd": after, "forgetting": after - before[FORGOTTEN_MCD]}
        unmeasured = []
        if "base_sha256" in voice.manifest.origin and "forgetting" not in metrics:
            unmeasured.append(
                "it was adapted from a base, and what it forgot is not measured; configure base "
                "and base.features, or give --without-forgetting"
            )
        ids, values = [row.id for row in rows], np.array([row.mcd for row in rows])
        measured = Measured(ids, values, metrics, unmeasured)
        if not settings.judges.names:
            return measured
        heard = hear(settings, data, bundle, "test", device)
        metrics |= judged_metrics(heard)
        return deciding(settings, heard, measured)

    return measure


def check_fits(voice: Bundle, features: FeatureSet, what: str) -> None:
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


def _check_origin(voice: Bundle, data: Data, what: str) -> None:
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


def _base_mcd(settings: AcousticSettings, data: Data, model: T3) -> float:
    """Distortion of the base's languages on their validation sentences, in dB."""
    assert settings.base is not None
    return base_metrics(model, data, settings.base.held_out, split="val")[FORGOTTEN_MCD]


def _evaluate_sets(
    model: T3,
    sets: Sequence[FeatureSet],
    known: Data,
    split: SplitName,
    limit: int | None = None,
) -> Rows:
    """Figures of a model on some sets, by its tokenizer and its table of speakers."""
    rows: Rows = {}
    for features in sets:
        corpus = load_corpus(features, known.tokenizer, split, known.speakers)
        if limit is not None:
            corpus = draw(corpus, limit)
        spoken = features.split(split)
        language = dict(zip(spoken.ids, spoken.languages, strict=True))
        for row in evaluate(model, corpus) if len(corpus) else ():
            rows.setdefault(language[row.id], []).append(row)
    return rows


def _together(rows: Rows) -> dict[str, float]:
    return aggregate_metrics([row for of_language in rows.values() for row in of_language])


def by_speaker(rows: Sequence[UtteranceMetrics], names: Sequence[str]) -> dict[str, float]:
    """``speaker/NAME/mcd`` and the like of each who speaks in some utterances; none if the model
    has one speaker only."""
    found: dict[str, float] = {}
    for number, name in enumerate(names):
        if of_one := [row for row in rows if row.speaker == number]:
            metrics = aggregate_metrics(of_one)
            found |= {of_speaker(name, key): metrics[key] for key in OF_SPEAKER}
    return found


def _of_each(rows: Rows) -> dict[str, float]:
    return {f"mcd_{code}": aggregate_metrics(of_one)["mcd"] for code, of_one in rows.items()}

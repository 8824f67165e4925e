"""Held-out metrics of a run's best checkpoint, beside those of what it started from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from dimts.families.acoustic.bundle import load_bundle
from dimts.families.acoustic.corpora import draw, join, load_corpus
from dimts.families.acoustic.data import Data
from dimts.families.acoustic.held_out import UtteranceMetrics, aggregate_metrics, evaluate
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import AcousticSettings
from dimts.families.acoustic.task import initial_model, untrained_model
from dimts.features.manifest import SplitName

HELD_OUT: tuple[SplitName, ...] = ("val", "test")
FORGETTING = ("mcd", "aligned_mel_mse", "length_ratio")

log = logging.getLogger(__name__)


def held_out_metrics(
    settings: AcousticSettings, data: Data, bundle: Path, device: torch.device
) -> dict[str, float]:
    """Metrics of a bundle on the validation and test splits, beside an untrained model's.

    Returns:
        ``mcd``-like keys under ``val/`` and ``test/``; see `held_out.aggregate_metrics`. With
        several languages the MCD of each is there too, as ``test/mcd_es``.
    """
    voice = load_bundle(bundle, device)
    untrained_voice = untrained_model(settings, data).to(device)
    metrics: dict[str, float] = {}
    for split in HELD_OUT:
        parts = [load_corpus(f, voice.tokenizer, split) for f in data.features]
        parts = [part for part in parts if len(part)]
        if not parts:
            continue
        rows = [evaluate(voice.model, part) for part in parts]
        values = aggregate_metrics([row for part in rows for row in part])
        untrained = evaluate(untrained_voice, join(parts))
        values["untrained_mcd"] = aggregate_metrics(untrained)["mcd"]
        values["mcd_of_untrained"] = values["mcd"] / values["untrained_mcd"]
        if len(parts) > 1:
            codes = [f.split(split).languages[0] for f in data.features if len(f.split(split))]
            for code, of_language in _by_language(codes, rows).items():
                values[f"mcd_{code}"] = aggregate_metrics(of_language)["mcd"]
        metrics |= {f"{split}/{key}": value for key, value in values.items()}
    return metrics


def _by_language(
    codes: Sequence[str], rows: Sequence[list[UtteranceMetrics]]
) -> dict[str, list[UtteranceMetrics]]:
    """Of sets of one language, as of two speakers, the metrics are together."""
    together: dict[str, list[UtteranceMetrics]] = {code: [] for code in codes}
    for code, of_set in zip(codes, rows, strict=True):
        together[code] += of_set
    return together


def forgetting_metrics(
    settings: AcousticSettings, data: Data, bundle: Path, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """The base's languages on held-out sentences, before and after the adaptation.

    Returns:
        ``forgetting/mcd``, ``forgetting/mcd_es`` and the like, before and after; after also has
        ``forgetting/mcd_change``. Both empty if there is no base, or none of its features.
    """
    if not data.base_features:
        return {}, {}
    limit = settings.base.held_out if settings.base else 0
    voice = load_bundle(bundle, device)
    before = base_metrics(initial_model(settings, data).to(device), data, limit)
    if not before:
        log.warning("base.features: no test utterances, so what is forgotten is not measured")
    after = base_metrics(voice.model, data, limit)
    for key in FORGETTING[:2]:
        name = f"forgetting/{key}"
        if name in before:
            after[f"{name}_change"] = after[name] - before[name]
    return before, after


def base_metrics(model: T3, data: Data, limit: int, split: SplitName = "test") -> dict[str, float]:
    """``forgetting/mcd`` and the like of a model on the base's languages, held-out sentences.

    Args:
        model: with the vocabulary of `data`.
        data: with the base's features.
        limit: utterances of each of them, at most.
        split: that they are of; what settings are chosen by must not be the test split.
    """
    corpora = [draw(load_corpus(f, data.tokenizer, split), limit) for f in data.base_features]
    codes = [features.manifest.corpus.languages[0] for features in data.base_features]
    together = _by_language(codes, [evaluate(model, corpus) for corpus in corpora])
    values = {f"forgetting/mcd_{c}": aggregate_metrics(r)["mcd"] for c, r in together.items() if r}
    if everything := [row for rows in together.values() for row in rows]:
        values |= {f"forgetting/{key}": aggregate_metrics(everything)[key] for key in FORGETTING}
    return values

"""What a T3 lost of its base's languages: the loss of their speech, before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dimts.families.chatterbox.base import read_base
from dimts.families.chatterbox.bundle import load_bundle
from dimts.families.chatterbox.data import held_out_rows, open_features
from dimts.families.chatterbox.held_out import evaluate
from dimts.families.chatterbox.metrics import FORGETTING
from dimts.families.chatterbox.model.t3 import T3
from dimts.families.chatterbox.settings import ChatterboxSettings
from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer
from dimts.features.manifest import SplitName

LOSS = FORGETTING.name.removesuffix("_change")


def forgetting(
    settings: ChatterboxSettings, bundle: Path, split: SplitName, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Cross-entropy of the speech of the base's languages, in nats a token.

    At most `base.held_out` utterances of each of `base.features` are measured. Without such sets
    both results are empty.

    Returns:
        `LOSS` of the bundle, of all and, as ``forgetting/speech_loss_en``, of each language, with
        the change against the base as `FORGETTING`; and the base's own.

    Raises:
        UserError: a set has too few utterances in the split, or its texts do not fit.
    """
    if not (settings.base and settings.base.features):
        return {}, {}
    base, loaded = read_base(settings.base.bundle), load_bundle(bundle)
    untrained = T3(base.config)
    untrained.load_state_dict(dict(base.weights))
    before = _losses(settings, untrained.to(device).eval(), base.tokenizer, split)
    after = _losses(settings, loaded.model(device), loaded.tokenizer, split)
    return {**after, FORGETTING.name: after[LOSS] - before[LOSS]}, before


def _losses(
    settings: ChatterboxSettings, model: T3, tokenizer: StockTokenizer, split: SplitName
) -> dict[str, float]:
    assert settings.base
    of_language: dict[str, list[float]] = {}
    for place in settings.base.features:
        features = open_features(place, settings, None)
        rows = held_out_rows(features, tokenizer, split)
        found = evaluate(model, rows, 0, settings.base.held_out)
        code = features.manifest.corpus.languages[0]
        of_language.setdefault(code, []).extend(row.speech_loss for row in found)
    means = {f"{LOSS}_{code}": float(np.mean(of)) for code, of in of_language.items()}
    return {LOSS: float(np.mean([loss for of in of_language.values() for loss in of])), **means}

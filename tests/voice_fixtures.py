"""A very small untrained voice, written as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dimts.audio.mel import MelConfig
from dimts.core.config import Config, to_yaml
from dimts.families.acoustic.bundle import build_model, write_bundle
from dimts.families.acoustic.model.config import (
    DecoderConfig,
    DurationConfig,
    EncoderConfig,
    ModelConfig,
)
from dimts.families.acoustic.model.t3 import T3
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

MEL = MelConfig(n_mels=20)
MODEL = ModelConfig(
    width=16,
    encoder=EncoderConfig(layers=1, heads=2, feed_forward=16),
    duration=DurationConfig(channels=8, layers=1),
    decoder=DecoderConfig(channels=16, blocks=1),
)


class Settings(Config):
    """What of a run's settings a bundle needs."""

    model: ModelConfig = MODEL
    mel: MelConfig = MEL


def amharic() -> Tokenizer:
    return Tokenizer.from_language(load_language("am"), TextConfig(language="am"))


def untrained(seed: int = 0, tokenizer: Tokenizer | None = None) -> T3:
    torch.manual_seed(seed)
    mean, std = torch.randn(MEL.n_mels), torch.rand(MEL.n_mels) + 1
    return build_model(MODEL, tokenizer or amharic(), mean, std).eval()


def write_voice(
    folder: Path,
    model: T3 | None = None,
    settings: Settings | None = None,
    weights: dict[str, Tensor] | None = None,
    **facts: Any,
) -> Path:
    """Write a bundle into `folder`, which may exist."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or untrained()
    facts = {"step": 1, "epoch": 0, "metrics": {}, "features": "f"} | facts
    weights = weights if weights is not None else dict(model.state_dict())
    write_bundle(folder, weights, amharic(), to_yaml(settings or Settings()), facts)
    return folder

"""A very small voice of two speakers with a vocoder, as bundles, to be exported."""

from __future__ import annotations

from pathlib import Path

import torch

from dimts.audio.mel import MelConfig
from dimts.core.config import Config, to_yaml
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.bundle import write_bundle as write_voice_bundle
from dimts.families.acoustic.model.config import (
    DecoderConfig,
    DurationConfig,
    EncoderConfig,
    ModelConfig,
    PitchConfig,
)
from dimts.families.vocoder.bundle import write_bundle as write_vocoder_bundle
from dimts.families.vocoder.model.config import GeneratorConfig, PitchNetConfig
from dimts.families.vocoder.model.config import ModelConfig as VocoderConfig
from dimts.families.vocoder.model.vocoder import Vocoder
from dimts.text.language import load_language
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer

MEL = MelConfig(n_mels=20)
VOICES = ("abebe", "hana")
FACTS = {"step": 1, "epoch": 0, "metrics": {}, "features": "f"}
MODEL = ModelConfig(
    width=16,
    encoder=EncoderConfig(layers=1, heads=2, feed_forward=16, language_everywhere=True),
    duration=DurationConfig(channels=8, layers=1),
    decoder=DecoderConfig(channels=16, blocks=1),
    pitch=PitchConfig(channels=8, layers=1),
    postfilter=1.0,
)
VOCODER = VocoderConfig(
    pitch=PitchNetConfig(channels=8, hidden=8, blocks=1, classes=16),
    generator=GeneratorConfig(channels=8, hidden=8, blocks=1),
)


class _Settings(Config):
    model: ModelConfig | VocoderConfig
    mel: MelConfig = MEL


def write_bundles(folder: Path, config: ModelConfig = MODEL) -> tuple[Path, Path]:
    """An untrained voice and vocoder, whose weights are drawn wide enough to differ everywhere."""
    respelled = TextConfig(language="am", respell=True)
    tokenizer = Tokenizer.from_languages(
        [(load_language("en"), TextConfig(language="en")), (load_language("am"), respelled)]
    )
    torch.manual_seed(0)
    mean_M, std_M = torch.randn(MEL.n_mels) - 3, torch.rand(MEL.n_mels) + 1
    model = build_model(config, tokenizer, mean_M, std_M, len(VOICES))
    for parameter in (
        model.duration.out.weight,
        *(model.source.parameters() if model.source else ()),
    ):
        torch.nn.init.normal_(parameter, std=0.3)
    model.duration.expect(5.0)
    if model.source is not None:
        model.source.mean.copy_(torch.tensor([4.8, 5.3]))
        model.source.gain.fill_(0.2)  # as even as trained F0, whose last digits differ little
        model.source.harmonics_KM.normal_()
    if model.postfilter_FM is not None:
        model.postfilter_FM.uniform_(0.5, 2)
    vocoder = Vocoder(VOCODER, MEL)
    voice, own = folder / "voice", folder / "vocoder"
    voice.mkdir(parents=True)
    own.mkdir()
    settings = to_yaml(_Settings(model=config))
    facts = {**FACTS, "speakers": VOICES}
    write_voice_bundle(voice, model.state_dict(), tokenizer, settings, facts)
    settings = to_yaml(_Settings(model=VOCODER))
    write_vocoder_bundle(own, vocoder.state_dict(), settings, FACTS)
    return voice, own

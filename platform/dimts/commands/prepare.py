"""Corpus -> mel features: ``dimts prepare --config jobs/configs/VOICE.yaml``."""

from __future__ import annotations

from data_prep.pipeline import prepare
from dimts.cli import config_parser
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.features.manifest import SUMMARY


def main() -> None:
    """Prepare the features of one voice and print what they hold."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    prepare(config.corpus, config.text, config.mel, config.prepare)
    print((config.prepare.features / SUMMARY).read_text(encoding="utf-8"), end="")

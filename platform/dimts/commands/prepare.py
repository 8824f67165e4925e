"""Corpus -> features: ``dimts prepare --config jobs/configs/VOICE.yaml``."""

from __future__ import annotations

import sys

from data_prep.pipeline import prepare
from dimts.cli import config_parser
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.features.manifest import SUMMARY


def main() -> None:
    """Prepare the features of one voice and print what they hold."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    family = config.of_family
    prepare(config.corpus, config.text, family.extractors(config), config.prepare)
    print((config.prepare.features / SUMMARY).read_text(encoding="utf-8"), end="")
    try:
        family.prepare_inputs(config.launch().settings)
    except UserError as error:  # a base that is not there yet, say; the features are
        print(f"note: what else it needs is left to the training: {error}", file=sys.stderr)

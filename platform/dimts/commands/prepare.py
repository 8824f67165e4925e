"""Corpus -> features: ``dimts prepare --config jobs/configs/VOICE.yaml``."""

from __future__ import annotations

import sys
from typing import Any

from data_prep.pipeline import prepare
from dimts.cli import config_parser
from dimts.commands.voice_config import load_voice
from dimts.core.errors import UserError
from dimts.features.manifest import SUMMARY

SECTIONS = {"corpus", "text", "prepare"}


def main() -> None:
    """Prepare the features of one corpus and print what they hold."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_voice(arguments.config, arguments.overrides)
    family = config.of_family
    if not type(config).model_fields.keys() >= SECTIONS:
        raise UserError(f"family: {config.family} learns from no features that dimts prepares")
    sections: Any = config
    prepare(sections.corpus, sections.text, family.extractors(config), sections.prepare)
    print((sections.prepare.features / SUMMARY).read_text(encoding="utf-8"), end="")
    try:
        family.prepare_inputs(config.launch().settings)
    except UserError as error:  # a base that is not there yet, say; the features are
        print(f"note: what else it needs is left to the training: {error}", file=sys.stderr)

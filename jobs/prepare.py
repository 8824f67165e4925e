"""Corpus -> features: ``python jobs/prepare.py --config jobs/configs/VOICE.yaml``."""

from __future__ import annotations

import sys

from data_prep.pipeline import prepare
from dimts.cli import config_parser, run_job
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.families.acoustic.mel_extractor import MelExtractor
from dimts.features.manifest import SUMMARY
from jobs.voice_config import VoiceConfig


def main() -> None:
    """Prepare the features of one voice and print what they hold."""
    arguments = config_parser(__doc__ or "").parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    prepare(config.corpus, config.text, [MelExtractor(config.mel)], config.prepare)
    print((config.prepare.features / SUMMARY).read_text(encoding="utf-8"), end="")
    if config.training.aligner.fixed_share > 0:
        from dimts.families.acoustic.flat_start import prepare_durations  # loads torch

        try:
            prepare_durations(config.launch().settings)
        except UserError as error:  # a base that is not there yet, say; the features are
            print(f"note: not aligned yet, the training will do it: {error}", file=sys.stderr)


if __name__ == "__main__":
    run_job(main)

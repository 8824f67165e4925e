"""Corpus -> features: ``python jobs/prepare.py --config jobs/configs/VOICE.yaml``."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("prepare")

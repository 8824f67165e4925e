"""Make an LJSpeech corpus of a real English speaker from Debian's Asterisk prompts."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.recipes.asterisk_en import make_corpus


def main() -> None:
    """Parse the command line and write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("corpora/asterisk_en"), metavar="FOLDER")
    parser.add_argument("--min-seconds", type=float, default=1.5, metavar="S")
    parser.add_argument("--max-seconds", type=float, default=12.0, metavar="S")
    parser.add_argument(
        "--transcripts", type=Path, metavar="FILE", help="core-sounds-en.txt(.gz), where apt is not"
    )
    parser.add_argument("--audio", type=Path, metavar="FOLDER", help="the .g722 files, likewise")
    arguments = parser.parse_args()
    summary = make_corpus(
        arguments.out,
        arguments.transcripts,
        arguments.audio,
        arguments.min_seconds,
        arguments.max_seconds,
    )
    print(f"{arguments.out}: {summary}")

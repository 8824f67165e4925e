"""Make a sample corpus: speak a file of sentences with espeak-ng into an LJSpeech folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.recipes.espeak import SAMPLE_SENTENCES, render_corpus


def main() -> None:
    """Parse the command line and make the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE_SENTENCES, metavar="FILE",
        help="UTF-8 text, one sentence a line (default: the project's own Amharic sentences)",
    )  # fmt: skip
    parser.add_argument("--voice", default="am", help="a voice of espeak-ng (default: am)")
    parser.add_argument("--id-prefix", help="what utterance ids begin with (default: the voice)")
    parser.add_argument(
        "--out", type=Path, default=Path("corpora/sample_am"), metavar="FOLDER",
        help="the corpus's folder (default: corpora/sample_am)",
    )  # fmt: skip
    args = parser.parse_args()

    corpus = render_corpus(args.sentences, args.out, args.voice, args.id_prefix)
    what = f"{corpus.n_utterances} utterances, {corpus.seconds / 60:.1f} minutes"
    print(f"{args.out}: {what}" + ("" if corpus.rendered else " (up to date)"))

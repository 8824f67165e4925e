"""Make a sample corpus: a natural voice speaks a file of sentences into an LJSpeech folder.

espeak-ng reads the sentences; hibari, an American woman, speaks its phonemes. Of English sentences
hibari reads the letters itself. --engine espeak lets espeak-ng speak, too: a robot, in seconds.
--engine kokoro-NAME is one of five other speakers, and takes about as long as the speech does.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.recipes.espeak import ENGINES, HIBARI, SAMPLE_SENTENCES, render_corpus
from dimts.cli import JobParser


def main() -> None:
    """Parse the command line and make the corpus."""
    parser = JobParser(description=__doc__)
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE_SENTENCES, metavar="FILE",
        help="UTF-8 text, one sentence a line (default: the project's own Amharic sentences)",
    )  # fmt: skip
    parser.add_argument(
        "--voice", default="am", help="a language of espeak-ng, such as en or es (default: am)"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default=HIBARI.name, help="who speaks (default: hibari)"
    )
    parser.add_argument("--id-prefix", help="what utterance ids begin with (default: the voice)")
    parser.add_argument(
        "--out", type=Path, default=Path("corpora/sample_am"), metavar="FOLDER",
        help="the corpus's folder (default: corpora/sample_am)",
    )  # fmt: skip
    args = parser.parse_args()

    engine = ENGINES[args.engine]
    corpus = render_corpus(args.sentences, args.out, args.voice, args.id_prefix, engine)
    what = f"{corpus.n_utterances} utterances, {corpus.seconds / 60:.1f} minutes"
    print(f"{args.out}: {what}" + ("" if corpus.rendered else " (up to date)"))

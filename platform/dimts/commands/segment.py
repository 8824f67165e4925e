"""Long recordings and their texts -> a corpus of utterances cut in pauses.

Each recording of the folder has a text of the same name beside it: talk.mp3 and talk.txt, .srt,
.vtt, .csv (start,end,text), .TextGrid, or a label track of Audacity.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.segment.cut import CutConfig
from data_prep.segment.run import LEFT_OUT, SegmentSettings, segment
from dimts.cli import JobParser
from dimts.core.config import build_config
from dimts.text.normaliser import TextConfig


def main() -> None:
    """Parse the command line, cut the recordings, and say what came of them."""
    parser = JobParser(description=__doc__)
    parser.add_argument(
        "--recordings", type=Path, required=True, metavar="FOLDER", help="recordings and texts"
    )
    parser.add_argument("--language", required=True, help="code, or path of a language's YAML file")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the corpus that is made"
    )
    parser.add_argument(
        "--respell", action="store_true", help="read Latin words, as text.respell does"
    )
    for name, field in CutConfig.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=field.default,
            help=f"{field.description} (default: {field.default:g})",
        )  # fmt: skip
    given = parser.parse_args()
    limits = build_config(
        CutConfig, {name: getattr(given, name) for name in CutConfig.model_fields}
    )
    text = TextConfig(language=given.language, respell=given.respell).absolute()
    made = segment(SegmentSettings(given.recordings.absolute(), text, limits), given.out)
    print(made.summary, end="")
    print(f"corpus      {given.out}; left out: {given.out / LEFT_OUT}")

"""Ogg files to listen to, for docs/results.md: recordings, their copies, an old and a new voice.

    python benchmarks/listen.py --config jobs/configs/asterisk_en.yaml \\
        --old runs/OLD --new runs/NEW --out docs/samples

Test sentences of the configuration's features: as recorded, copied from their mels by Griffin-Lim
and by the vocoder that ships, spoken by an old voice through Griffin-Lim and by a new one through
the vocoder. What is printed is the table of them in Markdown. The waves are as loud as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import soundfile

import dimts
from dimts.audio.mel import log_mel
from dimts.cli import config_parser, run_job
from dimts.commands.voice_config import VoiceConfig
from dimts.core.config import load_config
from dimts.core.errors import UserError
from dimts.evaluation.judges.judge import Clip
from dimts.evaluation.judges.sources import COPIES, RECORDINGS, VOICE, voices_of_split
from dimts.families.acoustic.speaker import AcousticSpeaker
from dimts.families.registry import GRIFFIN_LIM
from dimts.features.feature_set import FeatureSet

KINDS = ("recording", "griffin_lim", "vocoder", "old", "new")
"""Names of a sentence's files."""
TITLES = ("recording", "Griffin-Lim copy", "vocoder copy", "old voice", "new voice")


def main() -> None:
    """Write ``N_KIND.ogg`` of each sentence and KIND, and print the table."""
    parser = config_parser(__doc__ or "")
    parser.add_argument("--old", required=True, help="run or bundle, heard by Griffin-Lim")
    parser.add_argument("--new", required=True, help="run or bundle, heard by the vocoder")
    parser.add_argument("--sentences", type=int, default=3, help="(default: 3)")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    config = load_config(VoiceConfig, arguments.config, arguments.overrides)
    features = FeatureSet.open(config.prepare.features)
    spoken = partial(voices_of_split, features, "test", arguments.sentences)
    old, new = dimts.load(arguments.old, vocoder=GRIFFIN_LIM), dimts.load(arguments.new)
    if not isinstance(new, AcousticSpeaker):
        raise UserError(f"{arguments.new}: is not of the acoustic family")
    of_new = spoken(new, (RECORDINGS, COPIES, VOICE))
    recordings = of_new[RECORDINGS]
    copies = [new.vocode(log_mel(clip.wave, new.mel_config)) for clip in recordings]
    columns = (
        [clip.wave for clip in recordings],
        [clip.wave for clip in of_new[COPIES]],
        copies,
        [clip.wave for clip in spoken(old, (VOICE,))[VOICE]],
        [clip.wave for clip in of_new[VOICE]],
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for kind, waves in zip(KINDS, columns, strict=True):
        for number, wave in enumerate(waves, start=1):
            file = arguments.out / f"{number}_{kind}.ogg"
            soundfile.write(file, wave, new.sample_rate, format="OGG", subtype="VORBIS")
    print(table(recordings, arguments.out.name))


def table(clips: Sequence[Clip], folder: str) -> str:
    """Markdown with a link to each file, from the page beside their folder."""
    lines = ["| |" + "".join(f" {title} |" for title in TITLES), "| --- |" + " --- |" * len(KINDS)]
    for number, clip in enumerate(clips, start=1):
        files = (f"{folder}/{number}_{kind}.ogg" for kind in KINDS)
        lines.append(f"| {clip.text} |" + "".join(f" [play]({file}) |" for file in files))
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)

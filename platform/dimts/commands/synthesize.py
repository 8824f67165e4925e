"""Text -> wav: ``dimts synthesize --model runs/VOICE/checkpoint_best --text "..."``.

The model is a bundle folder, a run's folder, or an MLflow URI such as
models:/NAME@champion or runs:/RUN_ID.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import dimts
from dimts.audio.decoded import AudioError
from dimts.audio.files import read_audio, write_wav
from dimts.audio.mel import log_mel
from dimts.cli import JobParser
from dimts.core.errors import UserError
from dimts.core.untrusted import open_regular, printable, read_text
from dimts.families.protocol import Speaker, Vocoder
from dimts.text.normaliser import UnknownCharacters
from dimts.text.unknown import without_unknown
from dimts.tracking.config import add_tracking_uri

SHOWN_LINES = 20


def main() -> int:
    """Speak one text, or each line of a file; 1 if a line could not be spoken."""
    arguments = _parser().parse_args()
    texts = _texts(arguments)
    speaker = dimts.load(
        arguments.model, vocoder=arguments.vocoder, tracking_uri=arguments.tracking.uri
    )
    if len(names := speaker.voices) > 1 and not arguments.voice:
        print(f"voice: {names[0]}; --voice may also be {', '.join(names[1:SHOWN_LINES])}")
    failed: list[int] = []
    for number, text in texts.items():
        where = f"{arguments.file}:{number}: " if arguments.file else ""
        try:
            wave = _speak_known(speaker, text, arguments, where)
        except UserError as error:
            if not arguments.file:
                raise
            print(f"error: {where}{error}", file=sys.stderr)
            failed.append(number)
            continue
        out = arguments.out / f"{number:04d}.wav" if arguments.file else arguments.out
        write_wav(out, wave, speaker.sample_rate)
        print(f"{out}   {len(wave) / speaker.sample_rate:.1f} s   {text}")
    if failed:
        lines = ", ".join(map(str, failed[:SHOWN_LINES])) + ", ..." * (len(failed) > SHOWN_LINES)
        print(f"{len(failed)} of {len(texts)} lines were not spoken: {lines}", file=sys.stderr)
    return int(bool(failed))


def _speak_known(
    speaker: Speaker, text: str, arguments: argparse.Namespace, where: str
) -> NDArray[np.float32]:
    """Like `_speak`; with --skip-unknown characters that the voice lacks are left out."""
    left_out: list[str] = []
    while True:
        try:
            wave = _speak(speaker, text, arguments)
        except UnknownCharacters as error:
            if not arguments.skip_unknown:
                raise
            text, taken = without_unknown(text, error)
            left_out += taken
            continue
        if left_out:
            names = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in dict.fromkeys(left_out))
            print(f"warning: {where}left out {printable(names)}", file=sys.stderr)
        return wave


def _speak(speaker: Speaker, text: str, arguments: argparse.Namespace) -> NDArray[np.float32]:
    """The text; by a vocoder, the recording that it names, of which the mel is all that it gets.

    Raises:
        UserError: see `Speaker.speak`; or there is no such recording, or it cannot be read.
    """
    if not isinstance(speaker, Vocoder):
        return speaker.speak(
            text, language=arguments.language, voice=arguments.voice, speed=arguments.speed,
            pitch=arguments.pitch,
        )  # fmt: skip
    if arguments.language or arguments.voice or (arguments.speed, arguments.pitch) != (1, 1):
        raise UserError("a vocoder speaks recordings as they are: leave out all but their name")
    try:
        with open_regular(Path(text)) as descriptor:
            wave = read_audio(descriptor, speaker.sample_rate)
    except (AudioError, OSError) as error:
        why = error.detail if isinstance(error, AudioError) else error.strerror
        raise UserError(f"{text}: {why}; a vocoder speaks recordings again") from error
    return speaker(log_mel(wave, speaker.mel))


def _parser() -> argparse.ArgumentParser:
    parser = JobParser(description=__doc__)
    parser.add_argument("--model", required=True, help="bundle, run folder or MLflow URI")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="what to say, of any length")
    what.add_argument("--file", type=Path, help="UTF-8 text, one wav a line")
    parser.add_argument("--out", type=Path, help="wav file, or folder with --file")
    parser.add_argument(
        "--vocoder",
        help="bundle, run or MLflow URI of a vocoder, an ONNX file, or griffin-lim (default: the "
        "one that ships)",
    )
    parser.add_argument(
        "--language", help="code of what is spoken, e.g. am (default: what the voice learned last)"
    )
    parser.add_argument(
        "--voice",
        metavar="NAME",
        help="who speaks, of several (default: whom a base was adapted to, else the first)",
    )
    parser.add_argument("--speed", type=float, default=1.0, help="1 is as learned (default)")
    parser.add_argument(
        "--pitch", type=float, default=1.0, help="2 is an octave above what was learned; default 1"
    )
    parser.add_argument(
        "--skip-unknown", action="store_true", help="leave out characters that the voice lacks"
    )
    add_tracking_uri(parser)
    return parser


def _texts(arguments: argparse.Namespace) -> dict[int, str]:
    """Line number -> sentence."""
    arguments.out = arguments.out or Path("output" if arguments.file else "output/speech.wav")
    if arguments.out.exists() and arguments.out.is_dir() != bool(arguments.file):
        what = "no folder, which --file needs" if arguments.file else "a folder; name a wav file"
        raise UserError(f"{arguments.out}: is {what}")
    if not arguments.file:
        return {1: arguments.text}
    lines = read_text(arguments.file).splitlines()
    texts = {n: line.strip() for n, line in enumerate(lines, start=1) if line.strip()}
    if not texts:
        raise UserError(f"{arguments.file}: holds no sentence")
    return texts

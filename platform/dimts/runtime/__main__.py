"""Text -> wav: ``python -m dimts_runtime VOICE "text" out.wav``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dimts.core.errors import UserError
from dimts.runtime.voice import Voice, write_wav


def main() -> int:
    """Speak one text; 2 if it cannot be spoken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voice", type=Path, help="folder that dimts export wrote")
    parser.add_argument("text", help="what to say, of any length")
    parser.add_argument("out", type=Path, help="wav file to write")
    parser.add_argument("--language", help="code of what is spoken")
    parser.add_argument("--speaker", help="who speaks, of several")
    parser.add_argument("--speed", type=float, default=1.0, help="1 is as learned (default)")
    parser.add_argument("--pitch", type=float, default=1.0, help="2 is an octave above; default 1")
    options = parser.parse_args()
    try:
        voice = Voice(options.voice)
        wave = voice.speak(
            options.text, language=options.language, voice=options.speaker, speed=options.speed,
            pitch=options.pitch,
        )  # fmt: skip
        write_wav(options.out, wave, voice.sample_rate)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}   {len(wave) / voice.sample_rate:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

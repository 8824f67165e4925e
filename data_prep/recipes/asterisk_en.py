"""A real speaker of English: the Asterisk telephone prompts, as an LJSpeech corpus.

Debian's `asterisk-core-sounds-en` holds the transcripts and `asterisk-core-sounds-en-g722`
the audio: Allison Smith, wideband, CC BY-SA 3.0. `apt-get download` fetches both.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_prep.recipes.folder import new_corpus
from dimts.audio.files import write_wav
from dimts.core.errors import UserError
from dimts.core.untrusted import read_text

TRANSCRIPTS_PACKAGE = "asterisk-core-sounds-en"
AUDIO_PACKAGE = "asterisk-core-sounds-en-g722"
TRANSCRIPTS = "core-sounds-en.txt.gz"
SAMPLE_RATE = 16_000
BYTES_PER_SECOND = 8_000  # of G.722 at 64 kbit/s
MARKER = "README.md"

ATTRIBUTION = """\
# Asterisk Core Sounds, English

Recordings of Allison Smith (http://www.theivrvoice.com), financed by Digium, Inc.,
licensed under Creative Commons Attribution-ShareAlike 3.0
(https://creativecommons.org/licenses/by-sa/3.0/). Source: the Debian packages
`asterisk-core-sounds-en` and `asterisk-core-sounds-en-g722`.

Changes: decoded from G.722 to 16-bit WAV at 16 kHz; prompts from {min_seconds:g} to
{max_seconds:g} seconds only; prompts with sounds other than speech left out; misspelt words
and symbols of the transcripts written out.
"""

# What the transcripts misspell or do not spell out as it is said: letters that are not
# spoken would mislead the aligner.
CORRECTIONS = {
    "represenatives": "representatives",
    "umute": "unmute",
    "un-indentified": "unidentified",
    "witheld": "withheld",
    "h.323": "H 3 2 3",
    "m i s d n": "M ISDN",
    "*": "star",
    "#": "pound",
}
_REMARK = re.compile(r"\[.*\]|<.*>|\(.*\)")
_CORRECTED = re.compile("|".join(map(re.escape, CORRECTIONS)), re.IGNORECASE)


class Prompt(NamedTuple):
    """One line of the transcripts: `name` is the audio's path without its suffix."""

    name: str
    text: str

    @property
    def id(self) -> str:
        """The name as a file name."""
        return self.name.replace("/", "_")

    @property
    def is_speech(self) -> bool:
        """False for tones, silence and prompts with remarks on what is heard."""
        return not _REMARK.search(self.text)


class CorpusSummary(NamedTuple):
    """What came of the prompts."""

    clips: int
    seconds: float
    left_out: Counter[str]

    def __str__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.left_out.items()))
        return f"{self.clips} clips, {self.seconds / 60:.1f} minutes; left out: {reasons or 'none'}"


def read_prompts(transcripts: str) -> Iterator[Prompt]:
    """The prompts of a transcript file: lines of ``name: text``, comments after ``;``.

    Raises:
        UserError: a line that is neither; names the line.
    """
    for number, line in enumerate(transcripts.splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        name, separator, text = line.partition(":")
        if not separator or not name.strip():
            raise UserError(f"transcripts, line {number}: not 'name: text' but {line!r:.60}")
        corrected = _CORRECTED.sub(_corrected, text)
        yield Prompt(name.strip(), " ".join(corrected.split()))


def make_corpus(
    out: Path,
    transcripts: Path | None = None,
    audio: Path | None = None,
    min_seconds: float = 1.5,
    max_seconds: float = 12.0,
) -> CorpusSummary:
    """Write ``out/metadata.csv`` and ``out/wavs/``: the same bytes from the same packages.

    A folder that this recipe made is replaced. `transcripts` is `core-sounds-en.txt` or its
    ``.gz``, and `audio` the folder of the ``.g722`` files; without them the packages are fetched.
    Clips outside the limits are left out; most short ones are single words.

    Raises:
        UserError: a program or a file is missing; says which and what to do.
    """
    if not 0 <= min_seconds < max_seconds:
        raise UserError(f"{min_seconds:g} to {max_seconds:g} seconds: no clip can be that long")
    if (transcripts is None) != (audio is None):
        raise UserError("name both --transcripts and --audio, or neither")
    if not shutil.which("ffmpeg"):
        raise UserError("ffmpeg is needed to decode G.722; install it: apt-get install ffmpeg")
    with (
        tempfile.TemporaryDirectory(prefix="dimts-asterisk-") as scratch,
        new_corpus(out, _is_ours(out / MARKER)) as folder,
    ):
        if transcripts is None or audio is None:
            transcripts, audio = _fetch(Path(scratch))
        prompts = sorted(read_prompts(read_text(transcripts)), key=lambda prompt: prompt.id)
        return _write(folder, prompts, audio, min_seconds, max_seconds)


def _write(
    folder: Path, prompts: list[Prompt], audio: Path, min_seconds: float, max_seconds: float
) -> CorpusSummary:
    left_out: Counter[str] = Counter()
    rows: list[str] = []
    seconds = 0.0
    for prompt in tqdm(prompts, unit="prompt", desc="decoding", disable=None):
        source = audio / f"{prompt.name}.g722"
        length = source.stat().st_size / BYTES_PER_SECOND if source.is_file() else None
        if reason := _left_out(prompt, length, min_seconds, max_seconds):
            left_out[reason] += 1
            continue
        decode = ["ffmpeg", "-v", "error", "-nostdin", "-f", "g722", "-i", str(source.absolute())]
        samples = _run([*decode, "-f", "s16le", "-ac", "1", "-ar", str(SAMPLE_RATE), "-"], folder)
        # ffmpeg's own WAV header names its version; this one is the same everywhere.
        wave = np.frombuffer(samples, "<i2") / 32768
        write_wav(folder / "wavs" / f"{prompt.id}.wav", wave, SAMPLE_RATE)
        seconds += len(wave) / SAMPLE_RATE
        rows.append(f"{prompt.id}|{prompt.text}|\n")
    if not rows:
        raise UserError(f"{audio}: no prompt of {min_seconds:g} to {max_seconds:g} seconds in it")
    (folder / "metadata.csv").write_text("".join(rows), encoding="utf-8", newline="\n")
    note = ATTRIBUTION.format(min_seconds=min_seconds, max_seconds=max_seconds)
    (folder / MARKER).write_text(note, encoding="utf-8", newline="\n")
    return CorpusSummary(len(rows), seconds, left_out)


def _left_out(
    prompt: Prompt, seconds: float | None, min_seconds: float, max_seconds: float
) -> str | None:
    if not prompt.is_speech:
        return "with sounds that are no speech"
    if not prompt.text:
        return "without text"
    if seconds is None:
        return "without audio"
    if seconds < min_seconds:
        return f"under {min_seconds:g} s"
    return f"over {max_seconds:g} s" if seconds > max_seconds else None


def _fetch(scratch: Path) -> tuple[Path, Path]:
    """Download and unpack both packages; the transcripts and the audio folder."""
    download = ["apt-get", "download", TRANSCRIPTS_PACKAGE, AUDIO_PACKAGE]
    try:
        try:
            _run(download, scratch)
        except UserError:  # a bare image has no package lists
            with suppress(UserError):
                _run(["apt-get", "update"], scratch)
            _run(download, scratch)
        for package in sorted(scratch.glob("*.deb")):
            _run(["dpkg", "-x", package.name, "."], scratch)
        transcripts = next(scratch.rglob(TRANSCRIPTS), None)
        a_prompt = next(scratch.rglob("activated.g722"), None)
        if transcripts is None or a_prompt is None:
            raise UserError("the packages do not hold what they used to")
    except UserError as error:
        raise UserError(
            f"{error}; get {TRANSCRIPTS} of Debian's {TRANSCRIPTS_PACKAGE} and the .g722 files of "
            f"{AUDIO_PACKAGE}, and name them with --transcripts FILE --audio FOLDER"
        ) from None
    return transcripts, a_prompt.parent


def _run(command: list[str], folder: Path) -> bytes:
    """What a program writes to standard output.

    Raises:
        UserError: it is missing or fails; says what it said last.
    """
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on this machine") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{' '.join(command)}: {said[-1]}") from None


def _corrected(match: re.Match[str]) -> str:
    right = CORRECTIONS[match[0].lower()]
    return right[0].upper() + right[1:] if match[0][0].isupper() else right


def _is_ours(marker: Path) -> bool:
    return marker.is_file() and marker.read_text(encoding="utf-8").startswith(ATTRIBUTION[:20])

"""A real speaker of English: the Asterisk telephone prompts, as an LJSpeech corpus.

Debian's `asterisk-core-sounds-en` holds the transcripts and `asterisk-core-sounds-en-g722`
the audio: Allison Smith, wideband, CC BY-SA 3.0. `apt-get download` fetches both.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
import wave
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from dimts.core.errors import UserError

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


@dataclass(frozen=True)
class Prompt:
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


@dataclass(frozen=True)
class CorpusSummary:
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

    Args:
        out: the corpus's folder; one that this recipe made is replaced.
        transcripts: `core-sounds-en.txt` or its ``.gz``; None fetches the package.
        audio: the folder of the ``.g722`` files; None fetches the package.
        min_seconds: shorter clips are left out; most are single words.
        max_seconds: longer ones are left out.

    Raises:
        UserError: a program or a file is missing; says which and what to do.
    """
    if not 0 <= min_seconds < max_seconds:
        raise UserError(f"{min_seconds:g} to {max_seconds:g} seconds: no clip can be that long")
    if (transcripts is None) != (audio is None):
        raise UserError("name both --transcripts and --audio, or neither")
    if out.exists() and not _is_ours(out):
        raise UserError(f"{out}: holds something else; name another folder or remove it")
    if not shutil.which("ffmpeg"):
        raise UserError("ffmpeg is needed to decode G.722; install it: apt-get install ffmpeg")
    with tempfile.TemporaryDirectory(prefix="dimts-asterisk-") as scratch:
        if transcripts is None or audio is None:
            transcripts, audio = _fetch(Path(scratch))
        prompts = list(read_prompts(_text(transcripts)))
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        summary = _write(partial, prompts, audio, min_seconds, max_seconds)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return summary


def _write(
    folder: Path, prompts: list[Prompt], audio: Path, min_seconds: float, max_seconds: float
) -> CorpusSummary:
    (folder / "wavs").mkdir(parents=True)
    left_out: Counter[str] = Counter()
    rows: list[str] = []
    seconds = 0.0
    for prompt in tqdm(
        sorted(prompts, key=lambda p: p.id), unit="prompt", desc="decoding", disable=None
    ):
        source = audio / f"{prompt.name}.g722"
        length = source.stat().st_size / BYTES_PER_SECOND if source.is_file() else None
        if reason := _left_out(prompt, length, min_seconds, max_seconds):
            left_out[reason] += 1
            continue
        seconds += _decode(source, folder / "wavs" / f"{prompt.id}.wav")
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


def _decode(source: Path, target: Path) -> float:
    """Seconds written to `target`, a WAV of 16 bits at 16 kHz."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "g722", "-i", str(source)]
    command += ["-f", "s16le", "-ac", "1", "-ar", str(SAMPLE_RATE), "-"]
    decoded = subprocess.run(command, capture_output=True, check=False)
    if decoded.returncode or not decoded.stdout:
        raise UserError(f"{source}: ffmpeg cannot decode it: {_last_line(decoded.stderr)}")
    # ffmpeg's own WAV header names its version; this one is the same everywhere.
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(decoded.stdout)
    return len(decoded.stdout) / 2 / SAMPLE_RATE


def _fetch(scratch: Path) -> tuple[Path, Path]:
    """Download and unpack both packages; the transcripts and the audio folder."""
    by_hand = (
        f"get {TRANSCRIPTS} of Debian's {TRANSCRIPTS_PACKAGE} and the .g722 files of "
        f"{AUDIO_PACKAGE}, and name them with --transcripts FILE --audio FOLDER"
    )
    for program in ("apt-get", "dpkg"):
        if not shutil.which(program):
            raise UserError(f"{program} is not on this machine; {by_hand}")
    download = ["apt-get", "download", TRANSCRIPTS_PACKAGE, AUDIO_PACKAGE]
    if _run(download, scratch).returncode:
        _run(["apt-get", "update"], scratch)  # a bare image has no package lists
        if (again := _run(download, scratch)).returncode:
            raise UserError(f"apt-get download failed: {_last_line(again.stderr)}; or {by_hand}")
    for package in sorted(scratch.glob("*.deb")):
        unpacked = _run(["dpkg", "-x", package.name, "."], scratch)
        if unpacked.returncode:
            raise UserError(f"{package.name}: dpkg failed: {_last_line(unpacked.stderr)}")
    transcripts = next(scratch.rglob(TRANSCRIPTS), None)
    a_prompt = next(scratch.rglob("activated.g722"), None)
    if transcripts is None or a_prompt is None:
        raise UserError(f"the packages do not hold what they used to; {by_hand}")
    return transcripts, a_prompt.parent


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False)


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def _text(transcripts: Path) -> str:
    try:
        data = transcripts.read_bytes()
        return (gzip.decompress(data) if transcripts.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{transcripts}: cannot be read as transcripts: {error}") from error


def _corrected(match: re.Match[str]) -> str:
    right = CORRECTIONS[match[0].lower()]
    return right[0].upper() + right[1:] if match[0][0].isupper() else right


def _is_ours(folder: Path) -> bool:
    marker = folder / MARKER
    if not folder.is_dir():
        return False
    return not any(folder.iterdir()) or (
        marker.is_file() and marker.read_text(encoding="utf-8").startswith(ATTRIBUTION[:20])
    )

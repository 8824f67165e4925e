"""Where clips come from: a split of features and a voice, or a folder of wave files."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from dimts.audio.decoded import AudioError
from dimts.audio.files import read_audio
from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.parquet_recordings import opened_recording
from dimts.core.errors import UserError
from dimts.core.untrusted import read_text
from dimts.evaluation.judges.judge import Clip, Float32Array
from dimts.families.protocol import Speaker
from dimts.features.feature_set import FeatureSet, drawn
from dimts.features.manifest import SplitName

RECORDINGS, COPIES, VOICE = "recordings", "Griffin-Lim", "voice"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def voices_of_split(
    features: FeatureSet,
    split: SplitName,
    sentences: int,
    speaker: Speaker,
    wanted: Sequence[str] = (RECORDINGS, COPIES, VOICE),
) -> dict[str, list[Clip]]:
    """Sentences of a split as recorded, as Griffin-Lim makes them of the recorded mels, which is
    what can be had of any model through it, and as a voice speaks them.

    Of at most so many `sentences` (0: all), always the same ones; fewer are a part of more.
    `wanted` are those of the three to make.

    Raises:
        UserError: the split is empty, a recording is not there, or the voice cannot speak a text.
    """
    rows = features.split(split)
    if not len(rows):
        raise UserError(f"{features.folder}: the {split} split is empty")
    kept = drawn(rows.ids, sentences or len(rows))
    mel, speakers = features.manifest.mel, rows.values("speaker")
    recorded = dict(zip(kept, _recordings(features, split, kept), strict=True))

    def clip(index: int, wave: Float32Array, rate: int) -> Clip:
        reference = recorded[index]
        if rate != mel.sample_rate:
            raise UserError(f"the voice speaks at {rate} Hz, the features are of {mel.sample_rate}")
        return Clip(
            wave, rate, rows.texts[index], rows.languages[index], reference, rows.ids[index],
            speakers[index],
        )  # fmt: skip

    def spoken(index: int) -> Float32Array:
        voice = speakers[index] if speaker.voices else None
        return speaker.speak(rows.texts[index], language=rows.languages[index], voice=voice)

    make: dict[str, Callable[[int], Float32Array]] = {
        RECORDINGS: lambda index: recorded[index],
        COPIES: lambda index: griffin_lim(rows.mel(index), mel),
        VOICE: spoken,
    }
    rates = {VOICE: speaker.sample_rate}
    return {
        name: [clip(i, make[name](i), rates.get(name, mel.sample_rate)) for i in kept]
        for name in wanted
    }


def clips_of_folder(
    waves: Path, texts: Path, language: str, recordings: Path | None = None
) -> list[Clip]:
    """The files of a folder of `waves` that a table names, with their texts.

    `texts` is a UTF-8 file of rows ``name|text``, as LJSpeech's; of three columns the last. A file
    of that name has one of `AUDIO_SUFFIXES`. `recordings` are of a person, by the same names.

    Raises:
        UserError: a file is missing or cannot be used, or the table has no rows.
    """
    clips = []
    for name, text in _read_texts(texts):
        wave, rate = _read(waves, name)
        reference = None
        if recordings:
            file = _find(recordings, name)
            reference = _decode(file.parent, file.name, rate)
        clips.append(Clip(wave, rate, text, language, reference, name))
    return clips


def _read_texts(table: Path) -> list[tuple[str, str]]:
    """Names of files, without their suffix, and texts."""
    lines = read_text(table).split("\n")
    rows = csv.reader(lines, delimiter="|", quoting=csv.QUOTE_NONE)
    sentences = []
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        texts = [column.strip() for column in row[1:] if column.strip()]
        if not row[0].strip() or not texts:
            raise UserError(f"{table}:{number}: not name|text")
        sentences.append((Path(row[0].strip()).stem, texts[-1]))
    if not sentences:
        raise UserError(f"{table}: holds no sentence")
    return sentences


def _recordings(features: FeatureSet, split: SplitName, kept: Sequence[int]) -> list[Float32Array]:
    """The recorded speech of some utterances, without the silence around it."""
    rows, rate = features.split(split), features.manifest.mel.sample_rate
    corpus = features.manifest.corpus.path
    if not isinstance(corpus, Path):
        raise UserError(f"{corpus}: judges compare with recordings in a folder of this machine")
    parts = list(zip(*(rows.values(name) for name in ("audio", "start", "seconds")), strict=True))
    return [
        _decode(corpus, audio, rate, start, start + seconds)
        for audio, start, seconds in (parts[i] for i in kept)
    ]


def _find(folder: Path, name: str) -> Path:
    for suffix in AUDIO_SUFFIXES:
        if (file := folder / f"{name}{suffix}").is_file():
            return file
    raise UserError(f"{folder / name}.wav: no such file")


def _read(folder: Path, name: str) -> tuple[Float32Array, int]:
    """A wave at the rate of its file."""
    import soundfile

    file = _find(folder, name)
    try:
        rate = int(soundfile.info(file).samplerate)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file}: cannot be decoded: {error}") from error
    return _decode(file.parent, file.name, rate), rate


def _decode(
    folder: Path, name: str, sample_rate: int, start: float = 0.0, end: float = math.inf
) -> Float32Array:
    try:
        with opened_recording(folder, name) as descriptor:
            return read_audio(descriptor, sample_rate, start=start, end=end)
    except (AudioError, OSError) as error:
        why = error.detail if isinstance(error, AudioError) else error.strerror
        raise UserError(f"{folder / name}: cannot be read ({why}); judges listen to it") from error

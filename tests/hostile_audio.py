"""Makers of audio files as no recorder should leave them; each writes one file at a path."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from prepare_fixtures import RATE, tone

Wave = npt.NDArray[np.floating[Any]]
SPEECH = tone(7)
PCM = (SPEECH * 32767).astype("<i2").tobytes()


def sound(path: Path, wave: Wave = SPEECH, rate: int = RATE, **options: Any) -> None:
    """A wave in a format of soundfile's, whatever the file is called."""
    soundfile.write(path, wave, rate, **{"format": "WAV"} | options)


def sound_at_rate(path: Path, rate: int) -> None:
    time = np.arange(int(0.7 * rate)) / rate
    sound(path, 0.3 * np.sin(2 * np.pi * 300 * time), rate)


def channels(path: Path, gains: list[float], noise: float = 0.0) -> None:
    """One channel a gain, all of the same speech, each with noise of its own."""
    own = noise * np.random.default_rng(0).standard_normal((len(SPEECH), len(gains)))
    sound(path, np.outer(SPEECH, gains) + own, subtype="FLOAT")


def with_sample(path: Path, value: float) -> None:
    """Speech in whose middle one sample has this value."""
    wave = SPEECH.copy()
    wave[len(wave) // 2] = value
    sound(path, wave, subtype="FLOAT")


def ten_minutes(path: Path) -> None:
    sound(path, np.tile(tone(1, 1.1), 500), subtype="PCM_U8")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WAV of chunks (name, content); an odd one is padded."""
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def fmt(
    tag: int = 1, n_channels: int = 1, rate: int = RATE, align: int = 2, bits: int = 16
) -> tuple[bytes, bytes]:
    """The chunk that says what the samples are."""
    fields = (tag, n_channels, rate, rate * align % 2**32, align, bits)
    return b"fmt ", struct.pack("<HHIIHH", *fields)


def header(path: Path, data: bytes = PCM, claimed: int | None = None, **fields: int) -> None:
    """A WAV of 16 bits whose header may lie, about its format or the bytes of its sound."""
    length = struct.pack("<I", len(data) if claimed is None else claimed)
    path.write_bytes(riff(fmt(**fields)) + b"data" + length + data)


def chunks(path: Path, before: list[tuple[bytes, bytes]]) -> None:
    """A WAV with chunks before its sound."""
    path.write_bytes(riff(fmt(), *before, (b"data", PCM)))


def empty_chunks(path: Path) -> None:
    """Twenty million of them, in a file that takes no place on disk."""
    path.write_bytes(riff(fmt()))
    os.truncate(path, 160_000_000)


def holds(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut_off(path: Path, share: float, **options: Any) -> None:
    """What is left of a file when copying it has failed."""
    sound(path, **options)
    os.truncate(path, int(path.stat().st_size * share))


MPEG_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def mp3_frames(wave: Wave, rate: int, mode: str = "CONSTANT") -> list[bytes]:
    """An MP3 in its parts; the first says how long it is and holds no sound."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data, frames = file.getvalue(), list[bytes]()
    version = 1 if rate >= 32_000 else 2
    while data:
        bits_a_second = 1000 * MPEG_KBITS[version][data[2] >> 4]
        length = 144 // version * bits_a_second // rate + (data[2] >> 1 & 1)
        frames.append(data[:length])
        data = data[length:]
    return frames


def mp3_without_length(path: Path, rate: int, end: bytes = b"") -> None:
    path.write_bytes(b"".join(mp3_frames(tone(7, 1.5), rate)[1:]) + end)


def mp3_that_seems_short(path: Path) -> None:
    """It does not say how long it is, and its first frame is larger than the others."""
    _, *frames = mp3_frames(tone(7, 1.5), RATE, "VARIABLE")
    largest = max(range(len(frames) // 2), key=lambda n: len(frames[n]))
    path.write_bytes(b"".join(frames[largest:]))


def sparse(path: Path, n_bytes: int) -> None:
    """Speech and then zeros up to so many bytes, which take no place on disk."""
    sound(path)
    os.truncate(path, n_bytes)


def promises_a_month(path: Path) -> None:
    """A FLAC that claims 2^36 - 1 samples."""
    sound(path, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)


def link(path: Path, target: str) -> None:
    path.symlink_to(target)


def new_line_in_name(path: Path) -> None:
    """A table of lines cannot name this file: its row becomes two."""
    sound(path.with_name(f"{path.stem}\nline.wav"))


def nothing(path: Path) -> None:
    """No file."""

"""M4A, AAC, WebM, Matroska, MP4 and AMR: decoded by PyAV, whole and in parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from examples import fuzz
from hypothesis import given
from hypothesis import strategies as st

from dimts.audio.containers import kind_of
from dimts.audio.decoded import AudioError
from dimts.audio.files import read_audio
from dimts.audio.mel import Float32Array

RATE = 16_000
CHANGE = 1.5  # seconds, where the tone becomes another
FORMATS = {
    # name: muxer, codec, rate in Hz, seconds by which it may begin late
    "m4a": ("ipod", "aac", 16_000, 0.01),
    "mp4": ("mp4", "aac", 44_100, 0.01),
    "mkv": ("matroska", "aac", 16_000, 0.01),
    "webm": ("webm", "libopus", 48_000, 0.01),
    "aac": ("adts", "aac", 16_000, 0.15),  # says nothing of what its encoder put before
    "amr": ("amr", "libopencore_amrnb", 8_000, 0.04),
}


def two_tones(rate: int, seconds: float = 3.0) -> Float32Array:
    """300 Hz, then 900 Hz from `CHANGE` on."""
    t = np.arange(int(seconds * rate)) / rate
    phase = np.cumsum(np.where(t < CHANGE, 300, 900)) / rate
    return (0.3 * np.sin(2 * np.pi * phase)).astype(np.float32)


def write(
    file: Path, kind: str, wave: Callable[[int], Float32Array] = two_tones, n_channels: int = 1
) -> Path:
    """A wave of a rate, in a format; the second channel is the first one inverted."""
    muxer, codec, rate, _ = FORMATS[kind]
    layout = "stereo" if n_channels == 2 else "mono"
    samples = np.stack([wave(rate) * (-1) ** n for n in range(n_channels)])
    with av.open(str(file), "w", format=muxer) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(stream.codec_context.format or "fltp", layout, rate)
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return file


def read(file: Path, max_seconds: float = 600.0, **part: float) -> Float32Array:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return read_audio(descriptor, RATE, max_seconds, **part)
    finally:
        os.close(descriptor)


def change_at(wave: Float32Array) -> float:
    """Seconds at which 300 Hz are heard for the last time."""
    t = np.arange(len(wave)) / RATE
    kernel = np.hanning(321) / 160

    def level(hertz: int) -> Float32Array:
        turned = wave * np.exp(-2j * np.pi * hertz * t)
        return np.abs(np.convolve(turned, kernel, "same"))

    low, high = level(300), level(900)
    return float(np.flatnonzero((low > high) & (low > 0.03))[-1]) / RATE


@pytest.mark.parametrize("kind", FORMATS)
def test_format_is_read_whole_and_in_parts(kind: str, tmp_path: Path) -> None:
    late = FORMATS[kind][3]
    file = write(tmp_path / f"a.{kind}", kind)
    whole = read(file)
    assert 3.0 - 0.01 < len(whole) / RATE < 3.0 + 0.1 + late
    assert CHANGE - 0.01 < change_at(whole) < CHANGE + late
    assert 0.25 < np.abs(whole[RATE // 4 : RATE]).max() < 0.4
    part = read(file, start=1.0, end=2.25)
    assert len(part) == pytest.approx(1.25 * RATE, abs=2)
    assert CHANGE - 1.0 - 0.02 < change_at(part) < CHANGE - 1.0 + late + 0.01
    with pytest.raises(AudioError, match=r"3|no sound"):
        read(file, start=5.0, end=6.0)
    with pytest.raises(AudioError, match=r"(at most|more than) 2 s"):
        read(file, max_seconds=2.0)


def test_inverted_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="channels cancel"):
        read(write(tmp_path / "a.m4a", "m4a", n_channels=2))


def test_video_beside_the_sound_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w", format="matroska") as container:
        video: Any = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 32
        sound: Any = container.add_stream("aac", rate=RATE)
        sound.layout = "mono"
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        picture.pts = 0
        container.mux(video.encode(picture))
        frame = av.AudioFrame.from_ndarray(two_tones(RATE)[None], "fltp", "mono")
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(frame))
        container.mux([*video.encode(None), *sound.encode(None)])
    assert change_at(read(file)) == pytest.approx(CHANGE, abs=0.01)


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mkv", "mkv")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"ends after|cannot be decoded"):
        read(file)


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.aac", "aac")
    for name, text in (
        ("a.m4a", f"#EXTM3U\n#EXTINF:3,\n{secret}\n"),
        ("b.mp4", f"ffconcat version 1.0\nfile '{secret}'\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="cannot be decoded"):
            read(tmp_path / name)


def test_without_pyav_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.m4a", "m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"is mov, which PyAV reads: pip install 'dimts\[av\]'"):
        read(file)


@fuzz()
@given(
    kind=st.sampled_from(["m4a", "mkv", "aac", "amr"]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4),
    share=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.05]),
)
def test_any_damage_gives_sound_or_a_reason(
    formats: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    damage: list[tuple[float, bytes]],
    share: float,
) -> None:
    data = bytearray(formats[kind])
    for place, piece in damage:
        at = round(place * len(data))
        data[at : at + len(piece)] = piece
    file = tmp_path_factory.mktemp("damaged") / "a"
    file.write_bytes(bytes(data[: round(share * len(data))]))
    parts: list[dict[str, float]] = [{}, {"start": 0.5, "end": 1.0}]
    for part in parts:
        try:
            wave = read(file, max_seconds=10.0, **part)
        except AudioError as error:
            assert error.detail and "\n" not in error.detail
            assert str(file) not in error.detail
        else:
            assert np.isfinite(wave).all() and 0 < len(wave) <= 10.1 * RATE


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("formats")
    return {kind: write(folder / kind, kind).read_bytes() for kind in FORMATS}


def test_formats_are_told_by_their_first_bytes(formats: dict[str, bytes], tmp_path: Path) -> None:
    kinds = {}
    for name, data in formats.items():
        (tmp_path / name).write_bytes(data)
        with (tmp_path / name).open("rb") as file:
            kinds[name] = kind_of(file.fileno())
    assert kinds == {"m4a": "mov", "mp4": "mov", "mkv": "matroska", "webm": "matroska",
                     "aac": "aac", "amr": "amr"}  # fmt: skip

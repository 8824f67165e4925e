"""Audio files and trimming: good ones read the same everywhere, bad ones give their reason."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from hostile_audio import mp3_frames, mp3_that_seems_short

from benchmarks.recording import read_recording
from benchmarks.speech_like import speech_like
from dimts.audio.decoded import AudioError
from dimts.audio.files import write_wav
from dimts.audio.mel import Float32Array
from dimts.audio.trim import TrimConfig, trim_silence
from dimts.core.untrusted import NotAFile

RATE = 22_050
WAVE = speech_like(1.0, RATE, seed=2)


def test_written_wave_reads_back_within_a_step_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.wav"
    write_wav(path, WAVE, RATE)
    assert soundfile.info(path).subtype == "PCM_16"
    back = read_recording(path, RATE)
    assert back.dtype == np.float32
    assert np.abs(back - WAVE).max() <= 0.5 / 32768 + 1e-7
    write_wav(path, back, RATE)
    np.testing.assert_array_equal(read_recording(path, RATE), back)


def test_what_exceeds_full_scale_is_clipped_not_wrapped(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([1.5, -1.5, 1.0, -1.0]), RATE)
    back = read_recording(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(back, [32767 / 32768, -1, 32767 / 32768, -1])


def test_a_refused_wave_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, WAVE, RATE)
    before = path.read_bytes()
    for bad in (np.array([0.0, np.nan]), np.array([0.0, np.inf])):
        with pytest.raises(ValueError, match="NaN or infinite"):
            write_wav(path, bad, RATE)
    with pytest.raises(ValueError, match="must be floats"):
        write_wav(path, np.zeros(10, np.int16), RATE)
    with pytest.raises(soundfile.LibsndfileError):
        write_wav(path, WAVE, -1)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_formats_are_known_by_content_not_by_name(tmp_path: Path, kind: str, subtype: str) -> None:
    path = tmp_path / "speech.raw"
    soundfile.write(path, WAVE, RATE, format=kind, subtype=subtype)
    wave = read_recording(path, RATE)
    n = min(len(wave), len(WAVE))
    assert abs(len(wave) - len(WAVE)) <= 1152
    assert np.corrcoef(wave[:n], WAVE[:n])[0, 1] > 0.98


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([WAVE, 0.5 * WAVE], 1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_recording(tmp_path / "a.wav", RATE), 0.75 * WAVE, atol=1e-6)


@pytest.mark.parametrize("file_rate", [8_000, 16_000, 44_100, 48_000])
def test_resampling_keeps_pitch_and_level(tmp_path: Path, file_rate: int) -> None:
    time = np.arange(file_rate) / file_rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), file_rate)
    wave = read_recording(tmp_path / "a.wav", RATE)
    assert len(wave) == RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(wave[1000:-1000], expected[1000:-1000], atol=2e-3)


def wav_bytes(wave: np.ndarray = WAVE, rate: int = RATE) -> bytes:
    """A 16-bit WAV by hand, so that its header can lie."""
    pcm = (np.asarray(wave) * 32767).astype("<i2").tobytes()
    head = struct.pack("<4sI4s", b"RIFF", 36 + len(pcm), b"WAVE")
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return head + struct.pack("<4sI", b"data", len(pcm)) + pcm


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "undecodable": lambda path: path.write_bytes(b"<html>not found</html>" * 50),
    "truncated": lambda path: path.write_bytes(wav_bytes()[:-1000]),
    "too_long": lambda path: write_wav(path, np.tile(WAVE, 3), RATE),
    "silent": lambda path: write_wav(path, np.zeros(RATE), RATE),
    "channels_cancel": lambda path: soundfile.write(path, np.stack([WAVE, -WAVE], 1), RATE),
    "bad_sample_rate": lambda path: path.write_bytes(wav_bytes(rate=100)),
    "not_finite": lambda path: soundfile.write(path, [0.1, np.nan, 0.2], RATE, subtype="FLOAT"),
    "out_of_range": lambda path: soundfile.write(path, 30_000 * WAVE, RATE, subtype="FLOAT"),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_file_is_refused_by_its_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "broken.wav"
    BROKEN[reason](path)
    with pytest.raises(AudioError) as caught:
        read_recording(path, RATE, max_seconds=2.5)
    assert caught.value.reason == reason
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value) == f"{caught.value.detail} ({reason})"


def test_a_header_without_samples_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(np.zeros(0)))
    with pytest.raises(AudioError) as caught:
        read_recording(tmp_path / "a.wav", RATE)
    assert caught.value.reason == "empty"


def test_a_flac_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, WAVE, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(AudioError) as caught:
        read_recording(path, RATE)
    assert caught.value.reason in {"truncated", "undecodable"}


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_off_is_refused(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, WAVE, 24_000, format="OGG", subtype=subtype)
    whole = path.read_bytes()
    ends = [position.start() for position in re.finditer(b"OggS", whole)]
    for end in (ends[-1], ends[-1] + 10, ends[-1] + 27, len(whole) * 2 // 3, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(AudioError) as caught:
            read_recording(path, RATE)
        assert caught.value.reason == "truncated"
    path.write_bytes(whole)
    assert len(read_recording(path, 24_000)) == len(WAVE)


@pytest.mark.parametrize("rate", [11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_an_mp3_that_does_not_say_its_length_is_read_to_its_end(tmp_path: Path, rate: int) -> None:
    """libsndfile then guesses it from the first frame, often a little too long."""
    path = tmp_path / "a.mp3"
    wave = speech_like(1.0, rate, seed=2) if rate > 11_025 else WAVE
    frames = mp3_frames(wave, rate)[1:]
    sound = b"".join(frames)
    n_samples = len(frames) * (1152 if rate >= 32_000 else 576)
    for content in (
        sound,
        sound + b"TAG" + bytes(125),
        b"ID3\4\0\0\0\0\1\2" + bytes(130) + sound,
    ):
        path.write_bytes(content)
        assert len(read_recording(path, rate)) == n_samples
    for missing in (1, len(frames[-1]) - 4):
        path.write_bytes(sound[:-missing])
        with pytest.raises(AudioError) as caught:
            read_recording(path, rate)
        assert caught.value.reason == "truncated"


def test_an_mp3_whose_end_would_be_lost_says_what_to_do(tmp_path: Path) -> None:
    mp3_that_seems_short(tmp_path / "a.mp3")
    with pytest.raises(AudioError, match="`ffmpeg -i OLD -c copy NEW`"):
        read_recording(tmp_path / "a.mp3", RATE)


def test_an_mp3_that_seems_long_is_measured(tmp_path: Path) -> None:
    """The first frame of this one is small, so that libsndfile's guess is far too long."""
    wave = np.concatenate([np.zeros(RATE // 2, np.float32), WAVE])
    (tmp_path / "a.mp3").write_bytes(b"".join(mp3_frames(wave, RATE, "VARIABLE")[1:]))
    assert soundfile.info(tmp_path / "a.mp3").duration > 3
    assert len(read_recording(tmp_path / "a.mp3", RATE, max_seconds=1.7)) >= 1.5 * RATE
    with pytest.raises(AudioError) as caught:
        read_recording(tmp_path / "a.mp3", RATE, max_seconds=0.5)
    assert caught.value.reason == "too_long"


@pytest.mark.parametrize("claimed", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_read(tmp_path: Path, claimed: int) -> None:
    """Its header could not be corrected at the end, and claims gigabytes."""
    data = wav_bytes()
    (tmp_path / "a.wav").write_bytes(data[:40] + struct.pack("<I", claimed) + data[44:])
    assert len(read_recording(tmp_path / "a.wav", RATE)) == len(WAVE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(NotAFile, match="named pipe"):
        read_recording(tmp_path / "pipe.wav", RATE)


def test_a_header_that_promises_too_much_costs_nothing(tmp_path: Path) -> None:
    """A FLAC whose header claims 2^36 - 1 samples, a month of audio."""
    path = tmp_path / "a.flac"
    soundfile.write(path, WAVE, RATE, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(AudioError) as caught:
        read_recording(path, RATE)
    assert caught.value.reason == "too_long"


def padded(before: int, after: int) -> Float32Array:
    """Half a second of noise between silences."""
    noise = 0.3 * np.random.default_rng(0).standard_normal(RATE // 2)
    return np.concatenate([np.zeros(before), noise, np.zeros(after)]).astype(np.float32)


@pytest.mark.integration
@pytest.mark.parametrize("top_db", [20.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_trimming_agrees_with_librosa(top_db: float, seed: int) -> None:
    wave = speech_like(2.0, RATE, seed)
    hop = round(0.01 * RATE)
    _, expected = librosa.effects.trim(wave, top_db=top_db, frame_length=4 * hop, hop_length=hop)
    config = TrimConfig(top_db=top_db, keep_seconds=0)
    assert trim_silence(wave, RATE, config) == tuple(expected)


def test_trimming_keeps_the_margin_and_stays_inside() -> None:
    wave = padded(5_000, 7_000)
    tight = trim_silence(wave, RATE, TrimConfig(keep_seconds=0))
    assert 4_000 < tight[0] < 5_500
    assert len(wave) - 8_000 < tight[1] < len(wave) - 6_000
    margin = round(0.05 * RATE)
    assert trim_silence(wave, RATE, TrimConfig()) == (tight[0] - margin, tight[1] + margin)
    assert trim_silence(wave, RATE, TrimConfig(keep_seconds=5)) == (0, len(wave))


def test_nothing_is_cut_from_silence_or_when_switched_off() -> None:
    wave = padded(5_000, 7_000)
    assert trim_silence(wave, RATE, TrimConfig(enabled=False)) == (0, len(wave))
    assert trim_silence(np.zeros(9_000, np.float32), RATE, TrimConfig()) == (0, 9_000)
    assert trim_silence(np.zeros(0, np.float32), RATE, TrimConfig()) == (0, 0)
    assert trim_silence(np.ones(3, np.float32), RATE, TrimConfig()) == (0, 3)

"""Audio files: what is read is checked first, what is written is never half there."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from dimts.audio.cleaning import remove_offset
from dimts.audio.compressed import is_whole_ogg, samples_in_mp3
from dimts.audio.containers import kind_of, read_container
from dimts.audio.decoded import (
    MAX_RECORDING_SECONDS,
    MAX_SECONDS,
    SILENT_PEAK,
    UNKNOWN_FRAMES,
    AudioError,
    check_header,
    end_within,
    mix,
    peak_of,
)
from dimts.audio.mel import Float32Array

LOUDEST_PEAK = 4.0  # float files may overshoot 1.0, but not be scaled like integers

_BLOCK_VALUES = 1 << 18  # samples times channels decoded at once: 1 MiB
_STREAMED_SIZES = {0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF}  # left by programs that write to a pipe
_MAX_WAV_CHUNKS = 1000  # before the sound; a file of nothing but empty ones would take minutes
_PADDING = 576  # samples that LAME adds to an MP3


class Decoded(NamedTuple):
    """A recording: mono float32 [n_samples] at its own sample rate, and the offset (of full scale)
    that was removed from it."""

    wave: Float32Array
    sample_rate: int
    offset: float


def read_audio(
    descriptor: int,
    sample_rate: int,
    max_seconds: float = MAX_SECONDS,
    start: float = 0.0,
    end: float = math.inf,
) -> Float32Array:
    """Decode an open regular file, mix to mono, remove a DC offset and resample: float32
    [n_samples] in [-1, 1].

    Reads by content what libsndfile knows (WAV, FLAC, Ogg, MP3) and, with PyAV, what
    `dimts.audio.containers` does (M4A, AAC, AMR, WebM, MP4). Memory is bounded by `max_seconds`
    however much a header promises.

    Args:
        descriptor: of the file, anywhere in it.
        sample_rate: Hz of the result; resampled by soxr's HQ recipe where the file's differs.
        max_seconds: what is longer is refused, before it is decoded where the header tells.
        start, end: seconds; the part that is decoded.

    Raises:
        AudioError: the file cannot be used; `reason` and `detail` say why.
    """
    decoded = decode_audio(descriptor, max_seconds, start, end)
    return resampled(decoded.wave, decoded.sample_rate, sample_rate)


def decode_audio(
    descriptor: int, max_seconds: float = MAX_SECONDS, start: float = 0.0, end: float = math.inf
) -> Decoded:
    """`read_audio` at the file's own sample rate; samples may exceed [-1, 1]."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    if os.fstat(descriptor).st_size == 0:
        raise AudioError("empty", "the file has no bytes")
    _refuse_cut_off_wav(descriptor)
    if os.pread(descriptor, 4, 0) == b"OggS" and not is_whole_ogg(descriptor):
        raise AudioError("truncated", "its end is missing")
    if kind := kind_of(descriptor):
        wave, file_rate = read_container(descriptor, kind, max_seconds, start, end)
    else:
        wave, file_rate = _decode(descriptor, max_seconds, start, end)
    peak = peak_of(wave)
    if not np.isfinite(peak):
        raise AudioError("not_finite", "holds NaN or infinite samples")
    if peak > LOUDEST_PEAK:
        raise AudioError("out_of_range", f"samples reach {peak:.3g}, full scale is 1")
    wave, offset = remove_offset(wave, file_rate)
    peak = peak_of(wave) if offset else peak
    if peak < SILENT_PEAK:
        raise AudioError("silent", f"no sample is louder than {abs(peak):.1g} of full scale")
    return Decoded(wave, file_rate, offset)


def resampled(wave: Float32Array, file_rate: int, sample_rate: int) -> Float32Array:
    """A wave at another sample rate, float32 [n_samples] in [-1, 1].

    Raises:
        AudioError: it is too short to have any sample there.
    """
    if file_rate != sample_rate:
        import soxr  # a voice that only speaks does without it

        wave = soxr.resample(wave, file_rate, sample_rate, quality="HQ")
        if not len(wave):
            raise AudioError("empty", f"too short to resample to {sample_rate} Hz")
    return np.clip(wave, -1.0, 1.0)


def write_wav(path: str | Path, wave: npt.ArrayLike, sample_rate: int) -> None:
    """Write 16-bit PCM; the file appears complete or not at all.

    Missing folders are made. The wave is float [n_samples]; what exceeds [-1, 1] is clipped.

    Raises:
        ValueError: the wave is not one-dimensional, not of floats, or holds NaN or Inf.
    """
    samples = np.asarray(wave)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"wave must be floats [n_samples], not {samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: not written, the wave holds NaN or infinite samples")
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        soundfile.write(draft, pcm, sample_rate, subtype="PCM_16", format="WAV")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _refuse_cut_off_wav(descriptor: int) -> None:
    """libsndfile reads a WAV that ends too early without complaint, so its header is checked."""
    size = os.fstat(descriptor).st_size
    riff = os.pread(descriptor, 12, 0)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return
    position = 12
    for _ in range(_MAX_WAV_CHUNKS):
        if position + 8 > size:
            return
        chunk = os.pread(descriptor, 8, position)
        length = int.from_bytes(chunk[4:], "little")
        position += 8 + length
        if chunk[:4] == b"data":
            if position > size and length not in _STREAMED_SIZES:
                detail = f"{position - size} of {length} bytes of audio are missing"
                raise AudioError("truncated", detail)
            return
        position += length % 2
    raise AudioError("undecodable", f"more than {_MAX_WAV_CHUNKS} chunks and no sound")


def _decode(
    descriptor: int, max_seconds: float, start: float, end: float
) -> tuple[Float32Array, int]:
    """Mono float32 [n_samples] at the file's own sample rate, and that rate."""
    whole = (start, end) == (0.0, math.inf)
    longest = max_seconds if whole else MAX_RECORDING_SECONDS
    try:
        with soundfile.SoundFile(descriptor, closefd=False) as file:
            rate, promised = file.samplerate, file.frames
            if file.format == "MP3":
                promised = samples_in_mp3(descriptor, 10 * longest * rate) or promised
            check_header(rate, promised, longest)
            if file.frames < promised - _PADDING:  # the rest is not decoded
                detail = "does not say its length; `ffmpeg -i OLD -c copy NEW` adds it"
                raise AudioError("undecodable", detail)
            promised = min(promised, file.frames)
            if not whole:
                promised = _seek(file, start, end, promised)
                check_header(rate, promised, max_seconds)
            wave = _read_mono(file, max_seconds, UNKNOWN_FRAMES if whole else promised)
    except EOFError:
        raise AudioError("truncated", "its end is missing") from None
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))  # without the number of the descriptor
        raise AudioError("undecodable", f"cannot be decoded: {' '.join(reason.split())}") from error
    if not len(wave):
        raise AudioError("empty", "holds no samples")
    if len(wave) < promised < UNKNOWN_FRAMES:
        raise AudioError("truncated", f"ends after {len(wave)} of {promised} samples")
    return wave, rate


def _seek(file: soundfile.SoundFile, start: float, end: float, n_frames: int) -> int:
    """Go to where a part begins; how many frames it has."""
    rate = file.samplerate
    end = end_within(start, end, n_frames / rate)
    first, last = round(start * rate), round(end * rate)
    file.seek(first)
    return last - first


def _read_mono(file: soundfile.SoundFile, max_seconds: float, n_frames: int) -> Float32Array:
    """The mean of the channels, block by block: a header that lies costs no memory."""
    block_frames = max(1, _BLOCK_VALUES // file.channels)

    def blocks() -> Iterator[Float32Array]:
        left = n_frames
        while len(block := file.read(min(block_frames, left), dtype="float32", always_2d=True)):
            left -= len(block)
            yield block

    return mix(blocks(), file.samplerate, max_seconds)

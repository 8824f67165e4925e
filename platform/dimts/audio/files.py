"""Audio files: what is read is checked first, what is written is never half there."""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dimts.audio.compressed import is_whole_ogg, samples_in_mp3
from dimts.audio.mel import Float32Array
from dimts.core.errors import UserError
from dimts.core.untrusted import NotAFile, open_regular

if TYPE_CHECKING:
    import soundfile

MAX_SECONDS = 600.0
MAX_RECORDING_SECONDS = 12 * 3600.0
"""Of a recording of which parts are read."""
MIN_SAMPLE_RATE = 4_000
MAX_SAMPLE_RATE = 384_000
SILENT_PEAK = 1e-4  # three steps of 16 bits
LOUDEST_PEAK = 4.0  # float files may overshoot 1.0, but not be scaled like integers

CANCELLED_SHARE = 0.02
"""Of the energy that channels with nothing in common would leave; speech and its copy turned upside
down leave none, ordinary stereo leaves more than all of it."""

_BLOCK_VALUES = 1 << 18  # samples times channels decoded at once: 1 MiB
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's word for "the header does not say" is near 2^63
_STREAMED_SIZES = {0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF}  # left by programs that write to a pipe
_MAX_WAV_CHUNKS = 1000  # before the sound; a file of nothing but empty ones would take minutes
_PADDING = 576  # samples that LAME adds to an MP3
_SLACK_SECONDS = 0.05
"""That a part may end after its recording: tables of times are rounded."""


class AudioError(UserError):
    """An audio file that cannot be used.

    `reason` is one word for counting: not_found, not_a_file, unreadable, empty, undecodable,
    bad_sample_rate, too_long, truncated, not_finite, out_of_range, channels_cancel, silent,
    outside (of a recording of which a part is wanted).
    `detail` says what is the matter with this file.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.reason})"


def read_audio(
    path: str | Path, sample_rate: int, max_seconds: float = MAX_SECONDS
) -> Float32Array:
    """Decode, mix to mono and resample: float32 [n_samples] in [-1, 1].

    Reads what libsndfile knows by content, whatever the file is called: WAV, FLAC, Ogg, MP3.
    Only regular files are opened, so nothing can block, and memory is bounded by `max_seconds`
    however much a header promises.

    Args:
        path: the audio file.
        sample_rate: Hz of the result; resampled by soxr's HQ recipe where the file's differs.
        max_seconds: a longer file is refused, before it is decoded where the header tells.

    Raises:
        AudioError: the file cannot be used; `reason` and `detail` say why.
    """
    try:
        with open_regular(path) as descriptor:
            return read_open_audio(descriptor, path, sample_rate, max_seconds)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", f"{path}: no such file") from None
    except NotAFile as error:
        raise AudioError("not_a_file", f"{path}: {error.strerror}") from None
    except OSError as error:
        raise AudioError("unreadable", f"{path}: {error.strerror or error}") from error


def read_open_audio(
    descriptor: int,
    path: str | Path,
    sample_rate: int,
    max_seconds: float = MAX_SECONDS,
    start: float = 0.0,
    end: float = math.inf,
) -> Float32Array:
    """`read_audio` of a regular file that is open already; `path` is for messages alone.

    From `start` to `end`, in seconds, only that part is decoded, which may be `max_seconds` long.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    if os.fstat(descriptor).st_size == 0:
        raise AudioError("empty", f"{path}: the file has no bytes")
    _refuse_cut_off_wav(path, descriptor)
    if os.pread(descriptor, 4, 0) == b"OggS" and not is_whole_ogg(descriptor):
        raise AudioError("truncated", f"{path}: its end is missing")
    wave, file_rate = _decode(path, descriptor, max_seconds, start, end)
    peak = _peak(wave)
    if not np.isfinite(peak):
        raise AudioError("not_finite", f"{path}: holds NaN or infinite samples")
    if peak < SILENT_PEAK:
        raise AudioError("silent", f"{path}: no sample is louder than {peak:.1g} of full scale")
    if peak > LOUDEST_PEAK:
        raise AudioError("out_of_range", f"{path}: samples reach {peak:.3g}, full scale is 1")
    if file_rate != sample_rate:
        import soxr

        wave = soxr.resample(wave, file_rate, sample_rate, quality="HQ")
        if not len(wave):
            raise AudioError("empty", f"{path}: too short to resample to {sample_rate} Hz")
    return np.clip(wave, -1.0, 1.0) if _peak(wave) > 1.0 else wave


def write_wav(path: str | Path, wave: npt.ArrayLike, sample_rate: int) -> None:
    """Write 16-bit PCM; the file appears complete or not at all.

    Args:
        path: where to; missing folders are made, an existing file is replaced.
        wave: float [n_samples] in [-1, 1]; what exceeds it is clipped.
        sample_rate: Hz.

    Raises:
        ValueError: the wave is not one-dimensional, not of floats, or holds NaN or Inf.
    """
    import soundfile

    samples = np.asarray(wave)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"wave must be floats [n_samples], not {samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: not written, the wave holds NaN or infinite samples")
    pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            soundfile.write(file, pcm, sample_rate, subtype="PCM_16", format="WAV")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_cut_off_wav(path: str | Path, descriptor: int) -> None:
    """libsndfile reads a WAV that ends too early without complaint, so its header is checked."""
    size = os.fstat(descriptor).st_size
    position = 12
    try:
        riff = os.read(descriptor, position)
        if riff[:4] != b"RIFF" or riff[8:12] != b"WAVE":
            return
        for _ in range(_MAX_WAV_CHUNKS):
            if position + 8 > size:
                return
            os.lseek(descriptor, position, os.SEEK_SET)
            chunk = os.read(descriptor, 8)
            length = int.from_bytes(chunk[4:8], "little")
            position += 8
            if chunk[:4] == b"data":
                missing = position + length - size
                if missing > 0 and length not in _STREAMED_SIZES:
                    detail = f"{path}: {missing} of {length} bytes of audio are missing"
                    raise AudioError("truncated", detail)
                return
            position += length + length % 2
        detail = f"{path}: more than {_MAX_WAV_CHUNKS} chunks and no sound"
        raise AudioError("undecodable", detail)
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def _decode(
    path: str | Path, descriptor: int, max_seconds: float, start: float, end: float
) -> tuple[Float32Array, int]:
    """Mono float32 [n_samples] at the file's own sample rate, and that rate."""
    import soundfile

    whole = (start, end) == (0.0, math.inf)
    longest = max_seconds if whole else MAX_RECORDING_SECONDS
    try:
        with soundfile.SoundFile(descriptor, closefd=False) as file:
            rate, promised = file.samplerate, file.frames
            if file.format == "MP3":
                promised = samples_in_mp3(descriptor, 10 * longest * rate) or promised
            _check_header(path, rate, promised, longest)
            if file.frames < promised - _PADDING:  # the rest is not decoded
                detail = f"{path}: does not say its length; `ffmpeg -i OLD -c copy NEW` adds it"
                raise AudioError("undecodable", detail)
            promised = min(promised, file.frames)
            if not whole:
                promised = _seek(path, file, start, end, promised)
                _check_header(path, rate, promised, max_seconds)
            wave = _read_mono(path, file, max_seconds, _UNKNOWN_FRAMES if whole else promised)
    except EOFError:
        raise AudioError("truncated", f"{path}: its end is missing") from None
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AudioError("undecodable", f"{path}: cannot be decoded: {reason}") from error
    if not len(wave):
        raise AudioError("empty", f"{path}: holds no samples")
    if len(wave) < promised < _UNKNOWN_FRAMES:
        detail = f"{path}: ends after {len(wave)} of {promised} samples"
        raise AudioError("truncated", detail)
    return wave, rate


def _seek(
    path: str | Path, file: soundfile.SoundFile, start: float, end: float, n_frames: int
) -> int:
    """Go to where a part begins; how many frames it has."""
    rate, seconds = file.samplerate, n_frames / file.samplerate
    if seconds < end < seconds + _SLACK_SECONDS or end == math.inf:
        end = seconds
    if not 0 <= start < end <= seconds:
        detail = f"{path}: {start:g} to {end:g} s is not inside its {seconds:.2f} s"
        raise AudioError("outside", detail)
    first, last = round(start * rate), round(end * rate)
    file.seek(first)
    return last - first


def _check_header(path: str | Path, sample_rate: int, frames: int, max_seconds: float) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        detail = f"{path}: {sample_rate} Hz is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        raise AudioError("bad_sample_rate", detail)
    if frames == 0:
        raise AudioError("empty", f"{path}: holds no samples")
    if max_seconds * sample_rate < frames < _UNKNOWN_FRAMES:
        seconds = frames / sample_rate
        raise AudioError("too_long", f"{path}: {seconds:.0f} s, at most {max_seconds:g} s")


def _read_mono(
    path: str | Path, file: soundfile.SoundFile, max_seconds: float, n_frames: int
) -> Float32Array:
    """The mean of the channels, block by block: a header that lies costs no memory."""
    block_frames = max(1, _BLOCK_VALUES // file.channels)
    limit = int(max_seconds * file.samplerate)
    blocks: list[Float32Array] = []
    n_samples, energy, loudest = 0, 0.0, 0.0
    while True:
        wanted = min(block_frames, n_frames - n_samples)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if not len(block):
            break
        n_samples += len(block)
        if n_samples > limit:
            raise AudioError("too_long", f"{path}: more than {max_seconds:g} s")
        if file.channels == 1:
            blocks.append(block.reshape(-1))
            continue
        loudest = max(loudest, _peak(block))
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are refused later
            blocks.append(block.mean(axis=1))
            energy += _energy(block)
    if len(blocks) <= 1:
        wave = blocks[0] if blocks else np.empty(0, np.float32)
    else:
        wave = np.concatenate(blocks)
    left = CANCELLED_SHARE * energy / file.channels**2
    if loudest >= SILENT_PEAK and _energy(wave) < left:
        detail = f"{path}: its {file.channels} channels cancel each other when mixed to one"
        raise AudioError("channels_cancel", detail)
    return wave


def _energy(wave: Float32Array) -> float:
    flat = wave.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _peak(wave: Float32Array) -> float:
    """Largest magnitude, NaN if any sample is; cheaper than through a copy of magnitudes."""
    return float(np.maximum(wave.max(), -wave.min()))

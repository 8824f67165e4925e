"""Audio files: what is read is checked first, what is written is never half there."""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from dimts.audio.compressed import is_whole_ogg, samples_in_mp3
from dimts.audio.mel import Float32Array

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


class AudioError(Exception):
    """An audio file that cannot be used.

    `reason` is one word for counting: empty, undecodable, bad_sample_rate, too_long, truncated,
    not_finite, out_of_range, channels_cancel, silent, outside (of a recording of which a part is
    wanted). `detail` says what is the matter with this file.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{detail} ({reason})")
        self.reason = reason
        self.detail = detail


def read_audio(
    descriptor: int,
    sample_rate: int,
    max_seconds: float = MAX_SECONDS,
    start: float = 0.0,
    end: float = math.inf,
) -> Float32Array:
    """Decode an open regular file, mix to mono and resample: float32 [n_samples] in [-1, 1].

    Reads what libsndfile knows by content: WAV, FLAC, Ogg, MP3. Memory is bounded by
    `max_seconds` however much a header promises.

    Args:
        descriptor: of the file, anywhere in it.
        sample_rate: Hz of the result; resampled by soxr's HQ recipe where the file's differs.
        max_seconds: what is longer is refused, before it is decoded where the header tells.
        start, end: seconds; the part that is decoded.

    Raises:
        AudioError: the file cannot be used; `reason` and `detail` say why.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    if os.fstat(descriptor).st_size == 0:
        raise AudioError("empty", "the file has no bytes")
    _refuse_cut_off_wav(descriptor)
    if os.pread(descriptor, 4, 0) == b"OggS" and not is_whole_ogg(descriptor):
        raise AudioError("truncated", "its end is missing")
    wave, file_rate = _decode(descriptor, max_seconds, start, end)
    peak = _peak(wave)
    if not np.isfinite(peak):
        raise AudioError("not_finite", "holds NaN or infinite samples")
    if peak < SILENT_PEAK:
        raise AudioError("silent", f"no sample is louder than {peak:.1g} of full scale")
    if peak > LOUDEST_PEAK:
        raise AudioError("out_of_range", f"samples reach {peak:.3g}, full scale is 1")
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
            _check_header(rate, promised, longest)
            if file.frames < promised - _PADDING:  # the rest is not decoded
                detail = "does not say its length; `ffmpeg -i OLD -c copy NEW` adds it"
                raise AudioError("undecodable", detail)
            promised = min(promised, file.frames)
            if not whole:
                promised = _seek(file, start, end, promised)
                _check_header(rate, promised, max_seconds)
            wave = _read_mono(file, max_seconds, _UNKNOWN_FRAMES if whole else promised)
    except EOFError:
        raise AudioError("truncated", "its end is missing") from None
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))  # without the number of the descriptor
        raise AudioError("undecodable", f"cannot be decoded: {' '.join(reason.split())}") from error
    if not len(wave):
        raise AudioError("empty", "holds no samples")
    if len(wave) < promised < _UNKNOWN_FRAMES:
        raise AudioError("truncated", f"ends after {len(wave)} of {promised} samples")
    return wave, rate


def _seek(file: soundfile.SoundFile, start: float, end: float, n_frames: int) -> int:
    """Go to where a part begins; how many frames it has."""
    rate, seconds = file.samplerate, n_frames / file.samplerate
    if seconds < end < seconds + _SLACK_SECONDS or end == math.inf:
        end = seconds
    if not 0 <= start < end <= seconds:
        raise AudioError("outside", f"{start:g} to {end:g} s is not inside its {seconds:.2f} s")
    first, last = round(start * rate), round(end * rate)
    file.seek(first)
    return last - first


def _check_header(sample_rate: int, frames: int, max_seconds: float) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        detail = f"{sample_rate} Hz is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        raise AudioError("bad_sample_rate", detail)
    if frames == 0:
        raise AudioError("empty", "holds no samples")
    if max_seconds * sample_rate < frames < _UNKNOWN_FRAMES:
        raise AudioError("too_long", f"{frames / sample_rate:.0f} s, at most {max_seconds:g} s")


def _read_mono(file: soundfile.SoundFile, max_seconds: float, n_frames: int) -> Float32Array:
    """The mean of the channels, block by block: a header that lies costs no memory."""
    block_frames = max(1, _BLOCK_VALUES // file.channels)
    limit = int(max_seconds * file.samplerate)
    blocks = [np.empty(0, np.float32)]
    n_samples, energy, loudest = 0, 0.0, 0.0
    while True:
        wanted = min(block_frames, n_frames - n_samples)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if not len(block):
            break
        n_samples += len(block)
        if n_samples > limit:
            raise AudioError("too_long", f"more than {max_seconds:g} s")
        if file.channels == 1:
            blocks.append(block.reshape(-1))
            continue
        loudest = max(loudest, _peak(block))
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf are refused later
            blocks.append(block.mean(axis=1))
            energy += _energy(block)
    wave = np.concatenate(blocks)
    left = CANCELLED_SHARE * energy / file.channels**2
    if loudest >= SILENT_PEAK and _energy(wave) < left:
        detail = f"its {file.channels} channels cancel each other when mixed to one"
        raise AudioError("channels_cancel", detail)
    return wave


def _energy(wave: Float32Array) -> float:
    flat = wave.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _peak(wave: Float32Array) -> float:
    """Largest magnitude, NaN if any sample is; cheaper than through a copy of magnitudes."""
    return float(np.maximum(wave.max(), -wave.min()))

"""M4A, MP4, AAC, AMR, WebM, Matroska: decoded by PyAV, which holds FFmpeg's libraries.

The format is told from the first bytes and given to FFmpeg, which is not let guess: some of what it
would recognise (playlists) names other files, and servers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from dimts.audio.decoded import (
    MAX_RECORDING_SECONDS,
    UNKNOWN_FRAMES,
    AudioError,
    check_header,
    end_within,
    mix,
)
from dimts.audio.mel import Float32Array

if TYPE_CHECKING:
    import av

RAW = ("aac", "amr")
"""Formats of packets alone: neither a duration nor an index."""
INSTALL = "pip install 'dimts[av]'"
_TRUNCATED_SECONDS = 0.25
"""That a file may be shorter than its header says: the last packet of a codec."""
_PREROLL_SECONDS = 0.2
"""Decoded before a part and dropped: codecs overlap their packets."""
_MAX_FAULTS = 3
"""Packets that cannot be decoded, in a row, until a file is given up."""


def kind_of(descriptor: int) -> str | None:
    """FFmpeg's name of the format of a file that libsndfile does not read, by its first bytes."""
    head = os.pread(descriptor, 16, 0)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"#!AMR"):
        return "amr"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: layer 0, not MP3
        return "aac"
    return None


def read_container(
    descriptor: int, kind: str, max_seconds: float, start: float = 0.0, end: float = math.inf
) -> tuple[Float32Array, int]:
    """Mono float32 [n_samples] of the first audio stream, and its rate in Hz.

    Args:
        descriptor: of an open regular file.
        kind: what `kind_of` says.
        max_seconds: of what is decoded, at most.
        start, end: seconds; the part that is wanted.

    Raises:
        AudioError: the file cannot be used, or PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise AudioError("needs_pyav", f"is {kind}, which PyAV reads: {INSTALL}") from None
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        try:
            with av.open(file, "r", format=kind) as container:
                return _read(container, max_seconds, start, end)
        except (av.FFmpegError, ValueError) as error:
            detail = " ".join(str(error).split())[:200]
            raise AudioError("undecodable", f"cannot be decoded as {kind}: {detail}") from error


def _read(
    container: av.container.InputContainer, max_seconds: float, start: float, end: float
) -> tuple[Float32Array, int]:
    import av

    if not container.streams.audio:
        raise AudioError("undecodable", "holds no audio stream")
    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1
    rate = int(stream.rate or 0)
    whole = (start, end) == (0.0, math.inf)
    promised = _seconds(container, stream)
    frames = UNKNOWN_FRAMES if promised is None else math.ceil(promised * rate)
    check_header(rate, frames, max_seconds if whole else MAX_RECORDING_SECONDS)
    if not whole:
        if promised is not None:
            end = end_within(start, end, promised)
        if end - start > max_seconds and end < math.inf:
            check_header(rate, math.ceil((end - start) * rate), max_seconds)
        if start > _PREROLL_SECONDS and stream.time_base and container.format.name not in RAW:
            target = int((start - _PREROLL_SECONDS) / stream.time_base)
            with suppress(av.FFmpegError):  # one without an index is decoded from its beginning
                container.seek(target, stream=stream, backward=True)
    wave = mix(_blocks(container, stream, rate, start, end), rate, max_seconds)
    if not len(wave):
        if whole:
            raise AudioError("empty", "holds no samples")
        raise AudioError("outside", f"has no sound from {start:g} to {end:g} s")
    wanted = promised if whole else (None if end == math.inf else end - start)
    if wanted is not None and len(wave) / rate < wanted - _TRUNCATED_SECONDS:
        detail = f"ends after {len(wave) / rate:.2f} of {wanted:.2f} s"
        raise AudioError("truncated", detail)
    return wave, rate


def _seconds(container: av.container.InputContainer, stream: Any) -> float | None:
    """Of the stream, or of the whole file; None: neither is said, or it is an estimate."""
    if container.format.name in RAW:
        return None  # from the bit rate of the first packets
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _blocks(
    container: av.container.InputContainer, stream: Any, rate: int, start: float, end: float
) -> Iterator[Float32Array]:
    """Samples [n, n_channels] from `start` to `end`, as FFmpeg decodes them."""
    import av

    resampler: av.AudioResampler | None = None
    at: int | None = None  # number of the next sample in the recording
    first = round(start * rate)
    last = None if end == math.inf else round(end * rate)
    faults = 0
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
            faults = 0
        except av.error.InvalidDataError:
            faults += 1
            if faults == _MAX_FAULTS:
                raise
            continue
        for frame in decoded:
            if at is None:
                time = frame.time if frame.time is not None else 0.0
                at = max(0, round(time * rate)) if start else 0
            if resampler is None:
                resampler = av.AudioResampler("fltp", frame.layout, rate)
            for planar in resampler.resample(frame):
                block = np.ascontiguousarray(planar.to_ndarray().T, np.float32)
                skipped = max(0, first - at)
                n_wanted = None if last is None else max(0, last - at)
                at += len(block)
                if len(part := block[skipped:n_wanted]):
                    yield part
            if last is not None and at >= last:
                return
